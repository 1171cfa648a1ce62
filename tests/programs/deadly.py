"""Ends the process that imports it if its command line is ``die``: `preloads_a_deadly_module` has it so."""

from __future__ import annotations

import os
import sys

if sys.argv[1:] == ["die"]:
    os._exit(3)

"""Changes its folder between an import by the entry "" of sys.path and a launch of what was imported.

Usage: changes_folder_before_launch.py START_METHOD FOLDER FIRST

FIRST is a module to import before the change.  The test writes the modules ``only_at_the_start``.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import standin

importlib.import_module(sys.argv[3])
sys.path.insert(0, "")
import only_at_the_start  # type: ignore[import-not-found]  # noqa: E402  # found by ""

os.chdir(sys.argv[2])
from procession import run  # noqa: E402  # in the other folder, unless it is FIRST

if __name__ == "__main__":
    method = sys.argv[1]
    options = standin.options() if method == "command" else None
    os.environ["STANDIN"] = ""
    call: dict[str, Any] = {"start_method": method, "options": options}
    print(run(only_at_the_start.tell, nprocs=2, **call))
    print("" in run(only_at_the_start.list_path, nprocs=1, **call)[0])

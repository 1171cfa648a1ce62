"""Looks into modules that may be imported by now, without importing them."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def get_if_imported(module: str, name: str) -> Any:
    """Return an attribute of a module; None if it is not imported, or only half: by another thread."""
    return getattr(sys.modules.get(module), name, None)

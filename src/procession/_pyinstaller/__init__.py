"""Tells PyInstaller, through the entry point group ``pyinstaller40``, where procession's hook is."""

from __future__ import annotations

import os


def get_hook_dirs() -> list[str]:
    """Return the folder of the hook."""
    return [os.path.dirname(__file__)]

"""Tells PyInstaller what an application needs that its imports do not show: modules, and plugins."""

from __future__ import annotations

from PyInstaller.utils.hooks import (  # type: ignore[import-untyped]
    collect_entry_point,
    collect_submodules,
)

from procession._registry.packaging import GROUP

UNUSED = ("procession._pyinstaller", "procession.testing")  # would bring PyInstaller and pytest

# Of procession and of every plugin that is installed where the application is built.
datas, hiddenimports = collect_entry_point(GROUP)
hiddenimports += collect_submodules("procession", filter=lambda name: not name.startswith(UNUSED))

"""Unpickles what ranks send, results and exceptions, as the classes that this process's script defines.

Ranks that have imported the main module call it ``__mp_main__``.  multiprocessing resolves that name to the
module that was ``__main__`` when multiprocessing was imported; runpy, a debugger or IPython's %run may have
changed that since.
"""

from __future__ import annotations

import io
import pickle
import sys
from typing import Any

from procession._python.main_module import MAIN_NAMES, find, find_script


def load(data: bytes | memoryview) -> Any:
    """Unpickle what a rank sent, which can run any code: use it only for ranks whose code you trust."""
    module = sys.modules.get("__mp_main__")
    if module is sys.modules["__main__"] and find_script() is vars(module):
        return pickle.loads(data)  # the name is right, and this is twice as fast
    return _Unpickler(io.BytesIO(data)).load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return find(module, name) if module in MAIN_NAMES else super().find_class(module, name)

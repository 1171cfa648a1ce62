"""The one file in memory from which all ranks of a launch get their orders, fn and args.

It holds the sizes of what follows (8 bytes each), the pickled (fn, args), the orders (`marshal`), and,
each at the start of a page, the buffers that the pickle leaves out (PEP 574).  Buffers are copied here
once, while the ranks already start, and mapped by each of them: see `procession._rank.bootstrap`.
"""

from __future__ import annotations

import marshal
import os
import pickle
import sys
from typing import TYPE_CHECKING

from procession._linux import memory
from procession._python import unpatched
from procession._rank.wire import PAYLOAD_HEAD, start_of_page

if TYPE_CHECKING:
    from procession._rank.spec import BootstrapSpec

OUT_OF_BAND = 64 * 1024
"""Smallest buffer in bytes that is left out of the pickle."""

_MAIN_NAMES = (b"__main__", b"__mp_main__")  # the second is what a rank calls its launcher's
_LARGEST_FRAME = 256 * 1024  # bytes of opcodes in one write; what is larger is somebody's data


class PayloadFile:
    """A payload being written: a file for a pickler first, then orders, then buffers."""

    def __init__(self) -> None:
        self.fd: int = memory.create("procession-payload")
        self.names_main: bool = False
        """Whether the pickle refers to the main module, in all likelihood."""
        self._buffers: list[memoryview] = []
        self.restart()

    def restart(self) -> None:
        """Forget what was written."""
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, PAYLOAD_HEAD, os.SEEK_SET)
        self._pickled = 0
        self.names_main = False
        self._release()

    def write(self, data: bytes | bytearray) -> int:
        """Take a part of the pickle; a large bytes object comes by itself, and is not copied before."""
        memory.write(self.fd, data)
        self._pickled += len(data)
        if not self.names_main and len(data) <= _LARGEST_FRAME:
            self.names_main = any(name in data for name in _MAIN_NAMES)
        return len(data)

    def leave_in(self, buffer: pickle.PickleBuffer) -> bool:
        """Decide whether a buffer goes into the pickle; note it if not (PEP 574's buffer_callback)."""
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous, which the pickler explains
            return True
        if view.nbytes < OUT_OF_BAND:
            return True
        self._buffers.append(view)
        return False

    def write_spec(self, spec: BootstrapSpec, *, apart: bool = False) -> None:
        """Add the orders, with which ranks can start; `fill` adds what they must then wait for.

        Orders that go to the ranks ``apart`` are only completed.
        """
        spec["buffers"] = [view.nbytes for view in self._buffers]
        spec["imports"] = sorted(self._owners())
        data = b"" if apart else marshal.dumps(dict(spec))
        memory.write(self.fd, data)
        os.pwrite(self.fd, b"".join(n.to_bytes(8, "big") for n in (self._pickled, len(data))), 0)
        if not self._buffers:
            memory.seal(self.fd)

    @property
    def is_filled(self) -> bool:
        """Whether all is there that ranks need."""
        return not self._buffers

    def fill(self) -> None:
        """Copy the buffers."""
        for view in self._buffers:
            os.lseek(self.fd, start_of_page(os.fstat(self.fd).st_size), os.SEEK_SET)
            memory.write(self.fd, view)
        memory.seal(self.fd)
        self._release()

    def close(self) -> None:
        """Let go of the file: it lasts as long as a rank has it."""
        self._release()
        unpatched.close(self.fd)

    def _owners(self) -> set[str]:
        """Return the modules whose objects have buffers: ranks will need them."""
        names = {type(view.obj).__module__ for view in self._buffers}
        return {name for name in names if name != "builtins" and name in sys.modules}

    def _release(self) -> None:
        for view in self._buffers:
            view.release()
        self._buffers = []

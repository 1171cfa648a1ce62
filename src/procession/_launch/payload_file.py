"""The file in memory from which all ranks of a launch read their spec, fn and args.

It holds, in this order: the sizes of the pickle and of the spec (8 bytes each), the pickled (fn, args), the
spec (`marshal`), and the buffers that the pickle leaves out (PEP 574), each at the start of a page.  The
caller copies the buffers once, while the ranks start up, and each rank maps them: see
`procession._rank.bootstrap`.
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
"""Size in bytes from which a buffer stays out of the pickle."""

_MAIN_NAMES = (b"__main__", b"__mp_main__")  # a rank calls its caller's main module the second
_LARGEST_FRAME = 256 * 1024  # bytes of opcodes in one write; a larger write is user data


class PayloadFile:
    """A payload being written: first the pickle (this is the pickler's file), then the spec, then buffers."""

    def __init__(self) -> None:
        self.fd: int = memory.create("procession-payload")
        self.names_main: bool = False
        """Whether the pickle seems to refer to the main module."""
        self._buffers: list[memoryview] = []
        self.restart()

    def restart(self) -> None:
        """Discard what was written."""
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, PAYLOAD_HEAD, os.SEEK_SET)
        self._pickled = 0
        self.names_main = False
        self._release()

    def write(self, data: bytes | bytearray) -> int:
        """Write a part of the pickle; the pickler passes a large bytes object by itself, uncopied."""
        memory.write(self.fd, data)
        self._pickled += len(data)
        if not self.names_main and len(data) <= _LARGEST_FRAME:
            self.names_main = any(name in data for name in _MAIN_NAMES)
        return len(data)

    def leave_in(self, buffer: pickle.PickleBuffer) -> bool:
        """Tell whether a buffer goes into the pickle (PEP 574, buffer_callback); else keep it for `fill`."""
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous: the pickler raises an error that says so
            return True
        if view.nbytes < OUT_OF_BAND:
            return True
        self._buffers.append(view)
        return False

    def write_spec(self, spec: BootstrapSpec, *, apart: bool = False) -> None:
        """Complete the spec and append it to the file; ranks can start with it, and then wait for `fill`.

        With ``apart`` the spec reaches the ranks another way, and so the file holds none.
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
        """Whether the file is complete."""
        return not self._buffers

    def fill(self) -> None:
        """Copy the buffers into the file, and seal it against changes."""
        for view in self._buffers:
            os.lseek(self.fd, start_of_page(os.fstat(self.fd).st_size), os.SEEK_SET)
            memory.write(self.fd, view)
        memory.seal(self.fd)
        self._release()

    def close(self) -> None:
        """Close the file; it exists as long as a rank has it open."""
        self._release()
        unpatched.close(self.fd)

    def _owners(self) -> set[str]:
        """Return the modules that define the objects with buffers: ranks will import them."""
        names = {type(view.obj).__module__ for view in self._buffers}
        return {name for name in names if name != "builtins" and name in sys.modules}

    def _release(self) -> None:
        for view in self._buffers:
            view.release()
        self._buffers = []

"""Anonymous memory files: filled, sealed against changes, passed on by descriptor."""

from __future__ import annotations

import errno
import os

from procession._python.fd_numbers import above_streams

_REFUSALS = (errno.ENOSYS, errno.EPERM, errno.EACCES)  # by a sandbox, or an old kernel


def create(name: str) -> int:
    """Return the descriptor of a new file; /proc shows it as ``name``.

    Raises:
        OSError: no file can be created.
    """
    refusal: OSError | None = None
    if hasattr(os, "memfd_create"):
        try:
            return above_streams(os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            refusal = error
    try:
        return above_streams(_unlinked_file())
    except OSError as error:
        why = f"memfd_create: {refusal.strerror}" if refusal is not None else "no memfd_create"
        error.strerror = f"cannot create a file in memory ({why}), nor elsewhere: {error.strerror}"
        raise


def write(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of ``data`` at the file's offset; one system call takes at most 2 GiB."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def seal(fd: int) -> None:
    """Seal the file against changes, if the platform can; private mappings can still be changed."""
    if not hasattr(os, "memfd_create"):
        return
    import fcntl

    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL):  # it is not a memory file
            raise


def file_of(name: str, data: bytes | memoryview) -> int:
    """Return the descriptor of a sealed file that holds ``data``."""
    fd = create(name)
    try:
        write(fd, data)
        seal(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _unlinked_file() -> int:
    import tempfile

    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        return os.dup(file.fileno())

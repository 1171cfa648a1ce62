"""Anonymous files in memory: filled, sealed so that nobody can change them, handed over by descriptor."""

from __future__ import annotations

import os


def create(name: str) -> int:
    """Return the descriptor of a new file; ``name`` is what /proc shows of it."""
    if not hasattr(os, "memfd_create"):
        return _unlinked_file()
    from procession.fds import above_streams

    return above_streams(os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))


def write(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Put all of ``data`` where the file's offset is; the system call takes at most 2 GiB."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def seal(fd: int) -> None:
    """Have nobody change the file any more, where the platform can; private mappings still may."""
    if not hasattr(os, "memfd_create"):
        return
    import fcntl

    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)


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

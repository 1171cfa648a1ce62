"""Descriptors of the core survive callers that close them by number and open files with these numbers."""

from __future__ import annotations

import os

from procession._linux import fds


def test_a_number_that_another_file_has_got_is_not_closed() -> None:
    read, write = os.pipe()
    fds.keep(read)
    file = os.open(os.devnull, os.O_RDONLY)
    os.dup2(file, read)
    assert not fds.is_kept(read)
    fds.drop(read)
    for fd in (read, write, file):
        os.close(fd)  # each is still open

"""A caller closes all descriptors by their numbers, ours too, and opens files that get these numbers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from procession._linux import fds
from scripts import execute

OPENS = {
    "files": "[tempfile.TemporaryFile() for _ in range(20)]",
    "sockets": "[end for _ in range(10) for end in socket.socketpair()]",
    "pipes": "[os.fdopen(fd, 'rb', 0) for _ in range(10) for fd in os.pipe()]",
}
SCRIPT = """
    import os, socket, sys, tempfile
    import procession

    def work(rank):
        return rank

    def find_broken(files):
        broken = []
        for file, identity in files:
            try:
                if os.fstat(file.fileno()).st_ino != identity:
                    broken.append(file.fileno())
            except OSError:
                broken.append(file.fileno())
        return broken

    if __name__ == "__main__":
        method = sys.argv[1]
        assert procession.run(work, (), 2, start_method=method) == [0, 1]
        os.closerange(3, 256)
        files = [(file, os.fstat(file.fileno()).st_ino) for file in OPENED]
        pid = os.fork()
        if pid == 0:
            os._exit(len(find_broken(files)))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        print(procession.run(work, (), 2, start_method=method), find_broken(files))
    """


@pytest.mark.parametrize("kind", OPENS)
def test_files_of_the_caller_s_stay_open(start_method: str, kind: str, tmp_path: Path) -> None:
    """In what it forks, and in itself, where the next launch starts all it needs anew."""
    told = execute(tmp_path, SCRIPT.replace("OPENED", OPENS[kind]), start_method)
    assert told == "0\n[0, 1] []\n"


def test_a_rank_s_own_forks_close_no_file_of_its(start_method: str, tmp_path: Path) -> None:
    text = """
        import os, sys, tempfile
        import procession

        def nothing(rank):
            pass

        def work(rank):
            procession.run(nothing, (), 2, start_method="fork")
            os.closerange(3, 256)
            files = [tempfile.TemporaryFile() for _ in range(20)]
            pid = os.fork()
            if pid == 0:
                for file in files:
                    os.fstat(file.fileno())
                os._exit(0)
            open(sys.argv[2], "a").write(str(os.waitpid(pid, 0)[1]))
            os._exit(0)

        if __name__ == "__main__":
            options = {"start_method": sys.argv[1], "allow_early_exit": True}
            procession.start_processes(work, (), 2, **options)
            print(open(sys.argv[2]).read())
        """
    assert execute(tmp_path, text, start_method, str(tmp_path / "told")) == "00\n"


def test_a_number_that_another_file_has_got_is_not_closed() -> None:
    read, write = os.pipe()
    fds.keep(read)
    file = os.open(os.devnull, os.O_RDONLY)
    os.dup2(file, read)
    assert not fds.is_kept(read)
    fds.drop(read)
    for fd in (read, write, file):
        os.close(fd)  # all are open still

"""Where a sandbox (seccomp) forbids system calls: the launcher does without them, or says why it cannot."""

from __future__ import annotations

import os
import platform
import signal
import sys
from pathlib import Path

import pytest

from procession import run, start_processes
from procession.testing.scratch import is_gone
from procession.testing.subject import wait_until
from scripts import execute

NUMBERS = {
    "x86_64": {"memfd_create": 319, "pidfd_open": 434},
    "aarch64": {"memfd_create": 279, "pidfd_open": 434},
}.get(platform.machine())

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or NUMBERS is None,
    reason="the numbers of system calls are not known here",
)

FORBID = """
import ctypes, errno, os, struct

def forbid(number, code):
    rules = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50000 | code), (6, 0, 0, 0x7fff0000)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    header = struct.pack("HxxxxxxP", len(rules), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, ctypes.c_char_p(header), 0, 0) == 0  # PR_SET_SECCOMP
"""


@pytest.mark.parametrize("code", ["ENOSYS", "EPERM"])
def test_without_memfd_create_files_lie_elsewhere(
    start_method: str, code: str, tmp_path: Path
) -> None:
    (tmp_path / "forbidding.py").write_text(FORBID)
    text = f"""
        import errno, sys
        import forbidding
        from array import array
        from procession import run

        def give(rank, values):
            return bytes(100_000), len(values)

        if __name__ == "__main__":
            forbidding.forbid({(NUMBERS or {})["memfd_create"]}, errno.{code})
            values = array("d", range(100_000))
            results = run(give, (values,), 2, start_method=sys.argv[1])
            print(results == [(bytes(100_000), 100_000)] * 2)
        """
    assert execute(tmp_path, text, start_method) == "True\n"


def test_without_any_file_the_error_says_why(tmp_path: Path) -> None:
    (tmp_path / "forbidding.py").write_text(FORBID)
    text = f"""
        import errno, os, sys, tempfile
        import forbidding
        from procession import run

        if __name__ == "__main__":
            forbidding.forbid({(NUMBERS or {})["memfd_create"]}, errno.EPERM)
            access = os.access
            os.access = lambda path, *more: path != "/dev/shm" and access(path, *more)
            tempfile.tempdir = "/nowhere"
            try:
                run(abs, start_method="spawn")
            except OSError as error:
                print(error)
        """
    told = execute(tmp_path, text)
    assert "cannot create a file in memory (memfd_create: Operation not permitted)" in told


def test_without_pidfds_what_ranks_start_ends_with_them(start_method: str, tmp_path: Path) -> None:
    (tmp_path / "forbidding.py").write_text(FORBID)
    text = f"""
        import errno, os, subprocess, sys, time
        import forbidding
        from procession import ProcessRaisedException, start_processes

        def note(kind, pid):
            os.close(os.open(os.path.join(sys.argv[2], f"pid {{pid}}"), os.O_CREAT | os.O_WRONLY))

        def work(rank):
            note("program", subprocess.Popen(["sleep", "60"]).pid)
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            note("fork", pid)
            note("daemon", subprocess.Popen(["sleep", "60"], start_new_session=True).pid)
            if rank == 0:
                while len(os.listdir(sys.argv[2])) < 6:
                    time.sleep(0.01)
                raise ValueError("boom")
            time.sleep(60)

        if __name__ == "__main__":
            forbidding.forbid({(NUMBERS or {})["pidfd_open"]}, errno.ENOSYS)
            try:
                start_processes(work, nprocs=2, start_method=sys.argv[1])
            except ProcessRaisedException as error:
                print("boom" in str(error))
        """
    folder = tmp_path / "pids"
    folder.mkdir()
    assert execute(tmp_path, text, start_method, str(folder)) == "True\n"
    pids = [int(name.split()[1]) for name in os.listdir(folder)]
    assert len(pids) == 6
    wait_until(lambda: all(map(is_gone, pids)) or None, "what ranks have started runs on")


def test_without_pidfds_what_a_rank_leaves_in_its_group_ends(
    start_method: str, tmp_path: Path
) -> None:
    (tmp_path / "forbidding.py").write_text(FORBID)
    text = f"""
        import errno, subprocess, sys
        import forbidding
        from procession import run

        def work(rank):
            options = {{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}}
            return [
                subprocess.Popen(["sleep", "60"], start_new_session=new, **options).pid
                for new in (False, True)
            ]

        if __name__ == "__main__":
            forbidding.forbid({(NUMBERS or {})["pidfd_open"]}, errno.ENOSYS)
            print(*run(work, start_method=sys.argv[1])[0])
        """
    left, daemon = map(int, execute(tmp_path, text, start_method).split())
    assert is_gone(left)
    assert not is_gone(daemon)
    os.kill(daemon, signal.SIGKILL)


@pytest.mark.parametrize("env", [{"NAME": "\ud800"}, {"\udfff": "value"}])
def test_a_lone_surrogate_in_env_is_named(start_method: str, env: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"env has text that cannot be encoded: '.*\\ud"):
        start_processes(abs, nprocs=2, start_method=start_method, env=env)


def test_what_the_environment_itself_escapes_is_handed_on(start_method: str) -> None:
    assert run(get_name, start_method=start_method, env={"NAME": "\udcff"}) == ["\udcff"]


def get_name(rank: int) -> str:
    return os.environ["NAME"]

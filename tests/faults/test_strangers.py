"""No signal reaches a process that only has the number of one of ours.

Promise: What ranks start ends with them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(
        os.getuid() != 0 or shutil.which("unshare") is None,
        reason="only root can have a namespace of process ids, and needs unshare (util-linux)",
    ),
]

REUSED = """
    import os, select, subprocess, sys, time
    from procession import start_processes

    def nothing(rank):
        pass

    def wait_until_reaped(pid):
        until = time.monotonic() + 10
        while os.path.exists(f"/proc/{pid}"):
            assert time.monotonic() < until
            time.sleep(0.001)

    if __name__ == "__main__":
        method, reaper = sys.argv[1:]
        context = start_processes(nothing, nprocs=1, join=False, start_method=method)
        (process,) = context.processes
        poll = select.poll()
        poll.register(process.sentinel, select.POLLIN)
        assert poll.poll(10_000)
        if reaper == "stranger":  # somebody else's wait takes the status, and frees the number
            try:
                os.waitpid(process.pid, 0)
            except ChildProcessError:  # the forkserver's
                pass
        wait_until_reaped(process.pid)
        with open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write(str(process.pid - 1))
        stranger = subprocess.Popen(["sleep", "60"], process_group=0)
        assert stranger.pid == process.pid, (stranger.pid, process.pid)
        process.terminate()
        process.kill()
        context.terminate()
        assert context.wait()
        time.sleep(0.05)
        print(stranger.poll())
        stranger.kill()
"""


HEIR = """
    import os, sys, time
    sys.path.insert(0, {tests!r})
    from procession import ProcessException, start_processes
    from starters import fail_with, start_one

    if __name__ == "__main__":
        assert os.getpid() == 1
        method, folder = sys.argv[1:]
        start_processes(start_one, ("program", folder), start_method=method)
        try:
            start_processes(fail_with, (["program", "session", "stranger"], folder), start_method=method)
        except ProcessException:
            pass
        children = open("/proc/self/task/1/children").read().split()
        states = [open(f"/proc/{{pid}}/stat").read().rpartition(")")[2].split()[0] for pid in children]
        print(states.count("Z"))
"""


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_process_1_of_a_container_has_no_zombies(start_method: str, tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(HEIR).format(tests=str(Path(__file__).parents[1])))
    done = subprocess.run(
        [
            *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
            *(sys.executable, str(path), start_method, str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0\n", done.stderr


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Popen has process_group from 3.11 on")
@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_a_process_with_a_reused_number_is_left_alone(start_method: str, tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(REUSED))
    done = subprocess.run(
        [
            *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
            *(sys.executable, str(path), start_method, "stranger"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "None\n", done.stderr

"""Ranks never have more rights than their caller at the call, and its settings of that moment.

Promise: Ranks have no more rights than their caller.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from procession.testing.scratch import state_of
from procession.testing.times import patience
from scripts import execute

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop its rights")

FACTS = """
    import ctypes, os, resource, sys
    from procession import run, start_processes

    def read_umask():
        umask = os.umask(0)
        os.umask(umask)
        return umask

    def read_status(*names):
        with open("/proc/self/status") as file:
            fields = dict(line.rstrip().partition(":")[::2] for line in file)
        return [fields[name] for name in names]

    def facts(rank):
        return {
            "ids": read_status("Uid", "Gid", "Groups", "CapEff", "CapPrm", "NoNewPrivs"),
            "umask": read_umask(),
            "limits": [resource.getrlimit(n) for n in range(16) if n != 10],
            "nice": os.getpriority(os.PRIO_PROCESS, 0),
            "cpus": sorted(os.sched_getaffinity(0)),
            "policy": os.sched_getscheduler(0),
            "folder": os.getcwd(),
        }

    def drop_capability(number):
        sets = [int(text, 16) for text in read_status("CapEff", "CapPrm", "CapInh")]
        kept = [one & ~(1 << number) for one in sets]
        head = (ctypes.c_uint * 2)(0x20080522, 0)
        words = [one >> shift & 0xFFFFFFFF for shift in (0, 32) for one in kept]
        assert ctypes.CDLL(None).capset(head, (ctypes.c_uint * 6)(*words)) == 0

    def tell_parent(rank):
        return os.getppid()

    def is_gone(pid):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "XZ"
"""

CHANGES = {
    "umask": "os.umask(0o077)",
    "soft limit": "resource.setrlimit(resource.RLIMIT_NOFILE, (512, HARD))",
    "hard limit": "resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))",
    "no core": "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
    "nice": "os.nice(3)",
    "cpus": "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])",
    "policy": "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))",
    "folder": "os.chdir('/')",
    "no new privileges": "assert ctypes.CDLL(None).prctl(38, 1, 0, 0, 0) == 0",
}
DROPS = {
    "groups": "os.setgroups([12345])",
    "gid": "os.setgid(65534)",
    "effective gid": "os.setegid(65534)",
    "capability": "drop_capability(21)",
    "bounding set": "assert ctypes.CDLL(None).prctl(24, 21, 0, 0, 0) == 0",  # PR_CAPBSET_DROP
}

SCRIPT = (
    FACTS
    + """
    HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if __name__ == "__main__":
        method = sys.argv[1]
        run(facts, nprocs=1, start_method=method)
        CHANGE
        mine = facts(0)
        for one in run(facts, nprocs=2, start_method=method):
            print({name: (mine[name], one[name]) for name in mine if mine[name] != one[name]})
"""
)


@pytest.mark.parametrize("change", CHANGES)
def test_what_the_caller_has_changed_holds_in_ranks(
    start_method: str, change: str, tmp_path: Path
) -> None:
    text = SCRIPT.replace("CHANGE", CHANGES[change])
    assert execute(tmp_path, text, start_method) == "{}\n{}\n"


@needs_root
@pytest.mark.parametrize("change", DROPS)
def test_rights_that_the_caller_has_dropped_are_dropped_in_ranks(
    start_method: str, change: str, tmp_path: Path
) -> None:
    if start_method != "fork" and change in ("bounding set", "effective gid"):
        pytest.skip("exec changes them again (execve(2), capabilities(7))")
    text = SCRIPT.replace("CHANGE", DROPS[change])
    assert execute(tmp_path, text, start_method) == "{}\n{}\n"


DROP_USER = "os.chdir('/'); os.setgroups([]); os.setgid(65534); os.setuid(65534)"


@needs_root
def test_ranks_of_another_user_are_that_users(start_method: str, tmp_path: Path) -> None:
    if start_method != "fork" and not can_nobody_run_python():
        pytest.skip("nobody but root may run this interpreter")
    text = SCRIPT.replace("CHANGE", DROP_USER)
    assert execute(tmp_path, text, start_method) == "{}\n{}\n"


@needs_root
def test_a_folder_that_the_caller_may_no_longer_enter_is_the_ranks_too(
    start_method: str, tmp_path: Path
) -> None:
    if start_method != "fork" and not can_nobody_run_python():
        pytest.skip("nobody but root may run this interpreter")
    folder = tmp_path / "closed"
    folder.mkdir(0o700)
    text = SCRIPT.replace("CHANGE", DROP_USER.replace("os.chdir('/')", "os.chdir(sys.argv[2])"))
    assert execute(tmp_path, text, start_method, str(folder)) == "{}\n{}\n"


def can_nobody_run_python() -> bool:
    try:
        done = subprocess.run([sys.executable, "-c", "import procession"], user=65534, cwd="/")
    except OSError:
        return False
    return done.returncode == 0


def test_settings_that_ranks_can_copy_need_no_new_server(tmp_path: Path) -> None:
    text = (
        FACTS
        + """
    if __name__ == "__main__":
        before = run(tell_parent, start_method="forkserver")
        os.umask(0o027)
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard))
        os.environ["CHANGED"] = "1"
        os.nice(1)
        print(run(tell_parent, start_method="forkserver") == before)
    """
    )
    assert execute(tmp_path, text) == "True\n"


@needs_root
def test_settings_that_ranks_cannot_copy_need_a_new_server(tmp_path: Path) -> None:
    text = (
        FACTS
        + """
    if __name__ == "__main__":
        os.nice(1)
        before = run(tell_parent, start_method="forkserver")
        os.nice(-1)
        print(run(facts, start_method="forkserver")[0] == facts(0))
        print(run(tell_parent, start_method="forkserver") == before)
    """
    )
    assert execute(tmp_path, text) == "True\nFalse\n"


def test_an_idle_server_of_other_rights_ends(tmp_path: Path) -> None:
    text = (
        FACTS
        + """
    if __name__ == "__main__":
        (before,) = run(tell_parent, start_method="forkserver")
        busy = start_processes(sys.stdin.readline if False else wait, (sys.argv[1],), join=False,
                               start_method="forkserver", options={"preload": ["wave"]})
        ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
        print(run(tell_parent, start_method="forkserver") != [before], is_gone(before))
        open(sys.argv[1], "w").close()
        while not busy.wait():
            pass
        print("served to the end")
    """.replace("sys.stdin.readline if False else wait", "wait")
    )
    text = text.replace(
        "    def tell_parent",
        "    def wait(rank, path):\n"
        "        import time\n"
        "        while not os.path.exists(path):\n"
        "            time.sleep(0.01)\n\n"
        "    def tell_parent",
    )
    assert execute(tmp_path, text, str(tmp_path / "go")) == "True True\nserved to the end\n"


SECRET = (
    FACTS
    + """
    def list_secrets(rank):
        found = []
        for pid in ("self", str(os.getppid())):
            with open(f"/proc/{pid}/environ", "rb") as file:
                found.append(b"a secret" in file.read())
        return found, "SECRET" in os.environ, os.environ.get("OTHER")

    if __name__ == "__main__":
        from procession._cleanup import reaper_client
        method = sys.argv[1]
        os.environ["SECRET"], os.environ["OTHER"] = "a secret", "1"
        seen = run(list_secrets, start_method=method)
        print(seen[0][1])
        REMOVE
        os.environ["OTHER"] = "2"
        (found, _, other), = run(list_secrets, start_method=method)
        print(found[0], other)
        with open(f"/proc/{reaper_client._line[3]}/environ", "rb") as file:
            print(b"a secret" in file.read())
"""
)


@pytest.mark.parametrize("removal", ["del os.environ['SECRET']", "os.environ['SECRET'] = ''"])
def test_a_variable_that_was_removed_is_seen_nowhere(
    start_method: str, removal: str, tmp_path: Path
) -> None:
    text = SECRET.replace("REMOVE", removal)
    assert execute(tmp_path, text, start_method) == "True\nFalse 2\nFalse\n"


def test_a_server_stays_for_variables_that_come_and_change(tmp_path: Path) -> None:
    text = (
        FACTS
        + """
    if __name__ == "__main__":
        seen = set()
        for value in ("1", "2", "3"):
            os.environ["CHANGING"] = value
            seen.update(run(tell_parent, start_method="forkserver"))
            os.environ["NEW " + value] = value
        print(len(seen))
        for value in ("4", "5"):  # one new server, which never had it
            del os.environ["CHANGING"]
            seen.update(run(tell_parent, start_method="forkserver"))
            os.environ["CHANGING"] = value
            seen.update(run(tell_parent, start_method="forkserver"))
        print(len(seen))
    """
    )
    assert execute(tmp_path, text) == "1\n2\n"


KILLED = """
    import os, subprocess, sys, time
    from procession import run, start_processes

    def work(rank):
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        os.write(1, f"{os.getpid()} {child.pid}\\n".encode())
        time.sleep(600)

    if __name__ == "__main__":
        run(abs, nprocs=2, start_method="fork")
        os.chdir("/"); os.setgroups([]); os.setgid(65534); os.setuid(65534)
        start_processes(work, (), 3, start_method="fork", keep_daemons=len(sys.argv) > 1)
"""


@needs_root
@pytest.mark.parametrize("guarded", ["by the reaper as well", "alone"])
def test_ranks_end_with_a_caller_that_had_been_root(guarded: str, tmp_path: Path) -> None:
    """The reaper is root's still, as the first death pipe is, which ranks of another user cannot open."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(KILLED))
    alone = [] if guarded != "alone" else ["keep daemons"]
    command = [sys.executable, str(script), *alone]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        ranks, others = zip(*(caller.stdout.readline().split() for _ in range(3)), strict=True)
        caller.send_signal(signal.SIGKILL)
    await_ends([*map(int, ranks)] if alone else [*map(int, ranks + others)])
    for pid in others if alone else ():
        os.kill(int(pid), signal.SIGKILL)


EFFECTIVE = """
    import os, subprocess, sys, time
    from procession import start_processes

    def work(rank):
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        os.write(1, f"{os.getpid()} {child.pid}\\n".encode())
        time.sleep(600)

    if __name__ == "__main__":
        if sys.argv[1] == "fork":  # what it imports, that user may not be able to read
            with start_processes(abs, (), 1, start_method="fork", join=False) as context:
                context.wait(0.1)
        os.chdir("/"); os.setegid(65534)
        if sys.argv[1] == "fork":
            os.seteuid(65534)
        context = start_processes(work, (), 2, start_method=sys.argv[1], join=False)
        if sys.stdin.readline() == "stop\\n":
            with context:
                pass
        context.wait()
"""


@needs_root
@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_what_ranks_start_ends_where_the_effective_user_is_another(
    start_method: str, end: str, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(EFFECTIVE))
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(script), start_method], **pipes) as caller:
        assert caller.stdout is not None
        assert caller.stdin is not None
        pids = [int(pid) for _ in range(2) for pid in caller.stdout.readline().split()]
        if end == "stopped":
            caller.stdin.write("stop\n")
            caller.stdin.flush()
            await_ends(pids)
        caller.kill()
    await_ends(pids)


def await_ends(pids: list[int]) -> None:
    until = time.monotonic() + patience(5)
    while left := [pid for pid in pids if state_of(pid) not in "XZ"]:
        if time.monotonic() > until:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"still running: {left}")
        time.sleep(0.01)

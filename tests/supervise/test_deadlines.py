"""A launch's deadline bounds its start: a server that imports, that is stopped, that another launch uses."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import ranks
from procession import ProcessTimeoutError, run, start_processes
from procession._forkserver import client
from procession._linux.procstat import state_of
from scripts import execute

SHORT = 1.0
"""Seconds of a deadline that has to pass."""


def stop_server() -> int:
    """Stop the forkserver that was used last; return its process id."""
    server = next(reversed(client._servers.values())).process
    assert server is not None
    os.kill(server.pid, signal.SIGSTOP)
    while state_of(server.pid) != "T":
        time.sleep(0.002)
    return server.pid


def test_an_import_that_hangs_ends_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hangs_at_import.py").write_text("import time; time.sleep(600)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {"preload": ["hangs_at_import"]}
    begun = time.monotonic()
    with pytest.raises(ProcessTimeoutError, match="within 1 s") as caught:
        run(ranks.give, (), 2, start_method="forkserver", timeout=SHORT, options=options)
    assert time.monotonic() - begun < 10 * SHORT
    assert "hangs_at_import" in "".join([str(caught.value), *ranks.notes_on(caught.value)])


def test_a_main_module_that_hangs_ends_at_the_deadline(start_method: str, tmp_path: Path) -> None:
    text = """
        import sys, time
        if __name__ == "__mp_main__":
            time.sleep(600)
        from procession import ProcessTimeoutError, run

        def work(rank):
            return rank

        if __name__ == "__main__":
            try:
                print(run(work, (), 2, start_method=sys.argv[1], timeout=1))
            except ProcessTimeoutError:
                print("late")
        """
    assert execute(tmp_path, text, start_method) == (
        "[0, 1]\n" if start_method == "fork" else "late\n"
    )


@pytest.mark.parametrize("size", [0, 2_000_000])
def test_a_server_that_is_stopped_is_replaced_after_the_deadline(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large environment does not fit into the socket: the request stays cut."""
    assert run(ranks.give, start_method="forkserver") == [(0,)]
    stopped = stop_server()
    for index in range(size // 100_000):
        monkeypatch.setenv(f"LARGE_{index}", "x" * 100_000)
    with pytest.raises(ProcessTimeoutError):
        run(ranks.give, (), 2, start_method="forkserver", timeout=SHORT)
    assert run(ranks.give, (), 2, start_method="forkserver", timeout=60) == [(0,), (1,)]
    monkeypatch.undo()
    assert run(ranks.give, start_method="forkserver", timeout=60) == [(0,)]
    assert state_of(stopped) in "?X"


def write_at_sigterm(rank: int, folder: str) -> None:
    """Be a rank that writes a checkpoint when it is to end."""

    def write(*_: Any) -> None:
        Path(folder, f"checkpoint {rank}").touch()
        os._exit(0)

    signal.signal(signal.SIGTERM, write)
    Path(folder, f"ready {rank}").touch()
    while True:
        time.sleep(60)


def test_ranks_get_sigterm_while_their_server_is_stopped(tmp_path: Path) -> None:
    context = start_processes(
        write_at_sigterm, (str(tmp_path),), 2, join=False, start_method="forkserver"
    )
    while len(list(tmp_path.glob("ready *"))) < 2:
        time.sleep(0.002)
    stop_server()
    context.terminate(grace_period=30)
    assert len(list(tmp_path.glob("checkpoint *"))) == 2


def test_a_launch_waits_for_another_one_s_server_until_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_servers: None
) -> None:
    (tmp_path / "imports_slowly.py").write_text(
        f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.002)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {"preload": ["imports_slowly"]}
    given: list[Any] = []

    def launch() -> None:
        given.append(run(ranks.give, start_method="forkserver", options=options))

    thread = threading.Thread(target=launch)
    thread.start()
    while not any(one.process for one in list(client._servers.values())):
        time.sleep(0.002)
    with pytest.raises(ProcessTimeoutError):
        run(ranks.give, start_method="forkserver", timeout=SHORT, options=options)
    (tmp_path / "go").touch()
    thread.join()
    assert given == [[(0,)]]


HANDLER = """
    import faulthandler, os, signal, sys, threading
    import procession

    def work(rank):
        return rank

    def launch():
        return procession.run(work, (), 1, start_method=sys.argv[1], timeout=30)

    def trace(frame, event, _):
        global seen
        name = os.path.basename(frame.f_code.co_filename)
        if os.getpid() != caller or name not in traced:
            return None
        seen += 1
        if seen in at:
            sys.settrace(None)
            signal.raise_signal(signal.SIGUSR1)
        return trace

    def count(*lines):
        global seen, at
        seen, at = 0, lines
        sys.settrace(trace)
        assert launch() == [0]
        sys.settrace(None)
        return seen

    if __name__ == "__main__":
        faulthandler.dump_traceback_later(55, exit=True)
        caller = os.getpid()
        signal.signal(signal.SIGUSR1, lambda *_: inner.append(launch()))
        inner = []
        traced = "client.py", "forkserver.py", "fds.py", "fork.py", "starting.py"
        count()
        lines = count()
        for line in range(1, lines, max(lines // 25, 1)):
            count(line)
        assert len(inner) >= 20 and all(one == [0] for one in inner), inner
        print("done")
    """


def test_a_signal_handler_launches_in_the_middle_of_a_launch(
    start_method: str, tmp_path: Path
) -> None:
    """At one line of the forkserver's client after another: its thread may hold any lock of ours."""
    assert execute(tmp_path, HANDLER, start_method) == "done\n"

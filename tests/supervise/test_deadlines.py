"""A launch's deadline bounds its start, while a server imports, is stopped, or serves another launch."""

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
from procession.testing.introspect import list_servers
from procession.testing.scratch import state_of
from scripts import run_program

SHORT = 1.0
"""A deadline that passes, in seconds."""


def stop_server() -> int:
    """Stop the forkserver that was used last; return its process id."""
    server = list_servers()[-1].process
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


def test_a_main_module_that_hangs_ends_at_the_deadline(start_method: str) -> None:
    """Ranks of fork do not import it."""
    done = run_program("hangs_as_main_module.py", start_method)
    assert done.stdout == ("[0, 1]\n" if start_method == "fork" else "late\n")


@pytest.mark.parametrize("size", [0, 2_000_000])
def test_a_server_that_is_stopped_is_replaced_after_the_deadline(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large environment does not fit into the socket, so that the request stays incomplete."""
    assert run(ranks.give, start_method="forkserver") == [(0,)]
    stopped = stop_server()
    for index in range(size // 100_000):
        monkeypatch.setenv(f"LARGE_{index}", "x" * 100_000)
    with pytest.raises(ProcessTimeoutError):
        run(ranks.give, (), 2, start_method="forkserver", timeout=SHORT)
    assert run(ranks.give, (), 2, start_method="forkserver", timeout=60) == [(0,), (1,)]
    monkeypatch.undo()
    assert run(ranks.give, start_method="forkserver", timeout=60) == [(0,)]
    assert state_of(stopped) == "X"


def write_at_sigterm(rank: int, folder: str) -> None:
    """Wait, and write a checkpoint at SIGTERM."""

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


def test_a_launch_waits_for_the_server_of_another_until_its_deadline(
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
    while not list_servers():
        time.sleep(0.002)
    with pytest.raises(ProcessTimeoutError):
        run(ranks.give, start_method="forkserver", timeout=SHORT, options=options)
    (tmp_path / "go").touch()
    thread.join()
    assert given == [[(0,)]]


def test_a_signal_handler_launches_in_the_middle_of_a_launch(start_method: str) -> None:
    """At one line of the forkserver's client after another: its thread may hold any lock of ours."""
    assert run_program("launches_in_signal_handlers.py", start_method).stdout == "done\n"

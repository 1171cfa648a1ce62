"""The start method `command`: ranks that agents hold, with a script in place of a batch system's launcher."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import standin
from procession import (
    Launch,
    ProcessContext,
    ProcessExitedException,
    ProcessRaisedException,
    StartError,
    get_backend,
    rank_info,
    run,
    start_processes,
)
from procession._supervise import oom
from procession.testing.ranks import give, make_large, work
from procession.testing.scratch import Stage, is_gone
from procession.testing.subject import wait_until
from procession.testing.times import patience
from through import Through


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN", "")


def launch(fn: Any, *args: Any, nprocs: int = 2, more: str = "", **keywords: Any) -> list[Any]:
    options = standin.options(more, **keywords.pop("options", {}))
    return run(fn, list(args), nprocs, start_method="command", options=options, **keywords)


def start(fn: Any, *args: Any, nprocs: int = 2, **keywords: Any) -> ProcessContext:
    defaults = {"start_method": "command", "options": standin.options(), "collect_results": True}
    keywords = {**defaults, **keywords}
    context: ProcessContext = start_processes(fn, args, nprocs, join=False, **keywords)
    return context


def await_ranks(context: ProcessContext, folder: Path, nprocs: int = 2) -> None:
    stage = Stage(str(folder), 0)
    for rank in range(nprocs):
        wait_until(partial(stage.read, f"rank {rank}"), f"rank {rank} does not start")


# Where ranks are


def test_ranks_know_their_place() -> None:
    assert launch(see_place) == [(0, 2, 0, 2, "command"), (1, 2, 1, 2, "command")]


def see_place(rank: int) -> tuple[Any, ...]:
    info = rank_info()
    assert info is not None
    return info.rank, info.nprocs, info.local_rank, info.local_nprocs, info.start_method


def test_each_host_has_its_own_local_ranks() -> None:
    """Hosts differ by name; here, some agents are in a namespace with another host name."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root may name a host, and only with util-linux's unshare")
    rename = ["unshare", "--uts", "sh", "-c", 'hostname far; exec "$@"', "sh"]
    more = f"if rank % 2: command = {rename!r} + command"
    places = launch(see_variables, nprocs=4, more=more)
    assert places == [("0", "2"), ("0", "2"), ("1", "2"), ("1", "2")]
    with pytest.raises(ProcessRaisedException) as caught:
        launch(raise_in, 1, nprocs=2, more=more)
    assert caught.value.host == "far"
    assert "(pid " in str(caught.value.failures[0])
    assert " on far)" in str(caught.value.failures[0])


def see_variables(rank: int) -> tuple[Any, ...]:
    return os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"]


def raise_in(rank: int, failing: int) -> None:
    if rank == failing:
        raise ValueError("boom")
    time.sleep(60)


def test_an_engine_need_not_number_its_processes() -> None:
    more = "env.pop('STANDIN_RANK', None); rank = 'none'"
    options = {**standin.options(more), "rank_variable": []}
    assert run(give, (), 3, start_method="command", options=options) == [(0,), (1,), (2,)]


def test_variables_of_the_caller_override_those_of_the_agent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = {"MASTER_ADDR": "there", "LOCAL_RANK": "7", "OWN": "x"}
    names = ("MASTER_ADDR", "LOCAL_RANK", "OWN", "PROCESSION_AGENT")
    assert launch(see, *names, nprocs=1, env=env) == [["there", "7", "x", None]]
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert launch(see, "MASTER_ADDR", "RANK", nprocs=1, rendezvous=False) == [[None, None]]
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1234")
    monkeypatch.delenv("RANK", raising=False)
    places = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
    seen = launch(see, *places, "MASTER_ADDR", "MASTER_PORT")
    assert seen == [[str(rank), "2", str(rank), "2", "0", "10.0.0.1", "1234"] for rank in range(2)]


def see(rank: int, *names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def test_an_agent_can_read_its_description_from_standard_input() -> None:
    """Some engines, such as ssh, do not pass variables on."""
    more = (
        "import shlex; text = env.pop('PROCESSION_AGENT')\n"
        "command = ['sh', '-c', 'exec ' + shlex.join(command) + ' <<E\\n' + text + '\\nE\\n']"
    )
    assert launch(give, more=more) == [(0,), (1,)]


# Arguments and results


def test_ranks_get_their_own_copies_of_large_arguments() -> None:
    values = bytearray(b"\1" * (5 << 20))
    assert launch(count_up, values, nprocs=3) == [(5 << 20, (5 << 20) + 1)] * 3


def count_up(rank: int, values: bytearray) -> tuple[int, int]:
    values[0] += 1
    return len(values), sum(values)


def test_an_agent_gets_arguments_that_it_may_not_read_from_another_agent() -> None:
    """Here, one agent has the capabilities of root, and the others have none."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root has capabilities to lose, by util-linux's setpriv")
    without = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    more = f"command = {without!r} + command if rank else command"
    assert launch(size, bytes(3 << 20), nprocs=3, more=more) == [3 << 20] * 3


def size(rank: int, values: bytes) -> int:
    return len(values)


def test_large_results_are_returned() -> None:
    results = launch(make_large, 20 << 20, nprocs=2)
    assert [bytes(result[:2]) for result in results] == [b"\0\0", b"\1\1"]
    assert [len(result) for result in results] == [20 << 20] * 2


def test_arguments_that_cannot_travel_are_refused_before_any_rank_starts() -> None:
    import multiprocessing

    for item in (multiprocessing.get_context("spawn").Queue(), multiprocessing.Pipe()[0]):
        with pytest.raises(ValueError, match="which ranks of start method 'command' cannot use"):
            launch(give, item)
        item.close()


def test_an_exit_barrier_is_refused() -> None:
    backend = get_backend("command")
    call = Launch(
        give, (), 1, "command", environments=({},), options=standin.options(), exit_barrier=True
    )
    with pytest.raises(ValueError, match="has no exit barrier"):
        backend.start(call)


def test_a_backend_can_name_an_entry_that_ranks_call_before_fn() -> None:
    options = standin.options()
    backend = Through("command", entry=(f"{__name__}:enter", 5), options=options)
    assert run(see_entered, start_method=backend, options=options) == [[(0, 5)]]


entered: list[tuple[int, Any]] = []


def enter(rank: int, argument: Any) -> None:
    entered.append((rank, argument))


def see_entered(rank: int) -> list[tuple[int, Any]]:
    return entered


# Ranks that do not start


def test_the_error_counts_the_ranks_that_arrived() -> None:
    begun = time.monotonic()
    with pytest.raises(StartError, match=r"cannot start 3 ranks \(2 have arrived\)") as caught:
        launch(
            give,
            nprocs=3,
            more="if rank == 1: command = ['sleep', '60']",
            options={"start_timeout": 3},
        )
    assert "the others have not within 3 s (option start_timeout)" in str(caught.value)
    assert (caught.value.nprocs, caught.value.came, caught.value.slots) == (3, 2, None)
    assert time.monotonic() - begun < 3 + patience(5)


def test_the_error_quotes_an_engine_that_ended_early(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        StartError, match=r"python[\d.]* has ended with exit code 3; it said:\nno room"
    ):
        launch(give, more="import sys; sys.stderr.write('no room\\n'); sys.exit(3)")
    assert "no room" in capfd.readouterr().err


def test_an_agent_that_cannot_reach_its_caller_says_so() -> None:
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root may leave the network, and only with util-linux's unshare")
    with pytest.raises(StartError, match="cannot reach its caller at 127") as caught:
        launch(give, nprocs=1, more="command = ['unshare', '--net', *command]")
    assert "the option 'advertise' must be an address that this host can reach" in str(caught.value)


def test_an_agent_without_a_description_says_so() -> None:
    with pytest.raises(StartError, match=r"finds neither PROCESSION_AGENT nor a line"):
        launch(give, nprocs=1, more="env.pop('PROCESSION_AGENT')")


def test_the_error_names_an_agent_that_ended_while_it_started_its_rank() -> None:
    with pytest.raises(StartError, match=r"rank 0 on .*: contact with its agent is gone"):
        launch(give, nprocs=1, more=f"command = {[sys.executable, '-c', HALF_AN_AGENT]!r}")


HALF_AN_AGENT = """
from procession.remote import agent
control, end, rank = agent.connect(agent.read_description())
agent.await_frame(control)
"""


def test_an_agent_that_cannot_start_its_rank_says_why() -> None:
    code = (
        "from procession.remote import agent, agent_session\n"
        "def fail(*_, **__): raise OSError('no processes left')\n"
        "agent_session.start_held = fail\nagent.main()"
    )
    with pytest.raises(StartError, match="no processes left"):
        launch(give, nprocs=2, more=f"if rank: command = {[sys.executable, '-c', code]!r}")


# How ranks end


def test_an_agent_passes_a_signal_on_to_its_rank(tmp_path: Path) -> None:
    """An engine that cancels a job sends one."""
    with start(tell_agent, str(tmp_path)) as context:
        pid = wait_until(partial(Stage(str(tmp_path), 0).read, "agent 1"), "rank 1 does not start")
        os.kill(int(pid), signal.SIGTERM)
        with pytest.raises(ProcessExitedException) as caught:
            context.wait()
    assert (caught.value.error_index, caught.value.signal_name) == (1, "SIGTERM")


def test_an_agent_ignores_sigusr1_and_its_rank_does_not(tmp_path: Path) -> None:
    """Hydra sends SIGUSR1 to the others when one of its processes has ended."""
    stage = Stage(str(tmp_path), 30)
    with start(await_go, str(tmp_path)) as context:
        for rank in range(2):
            pid = wait_until(partial(stage.read, f"agent {rank}"), f"rank {rank} does not start")
            os.kill(int(pid), signal.SIGUSR1)
        stage.tell("go")
        assert context.results() == [signal.SIG_DFL, signal.SIG_DFL]


def await_go(rank: int, folder: str) -> Any:
    stage = Stage(folder, 30)
    stage.tell(f"agent {rank}", str(os.getppid()))
    stage.await_cue("go")
    return signal.getsignal(signal.SIGUSR1)


def tell_agent(rank: int, folder: str) -> None:
    Stage(folder, 0).tell(f"agent {rank}", str(os.getppid()))
    time.sleep(60)


def test_ranks_write_to_the_streams_of_the_caller(capfd: pytest.CaptureFixture[str]) -> None:
    launch(write)
    out, err = capfd.readouterr()
    assert sorted(out.split()) == ["out0", "out1"]
    assert sorted(err.split()) == ["err0", "err1"]


def write(rank: int) -> None:
    os.write(1, f"out{rank}\n".encode())
    os.write(2, f"err{rank}\n".encode())


def test_daemons_can_be_kept(tmp_path: Path) -> None:
    """A process that a rank started in a new session outlives the launch and its engine."""
    launch(start_daemon, str(tmp_path), nprocs=1, keep_daemons=True)
    pid = int(Stage(str(tmp_path), 0).await_cue("daemon"))
    assert not is_gone(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(partial(is_gone, pid), "the daemon still runs")


def start_daemon(rank: int, folder: str) -> None:
    popen = subprocess.Popen(["sleep", "60"], start_new_session=True)
    Stage(folder, 0).tell("daemon", str(popen.pid))
    popen.returncode = 0


def test_a_sleeping_rank_shows_its_stack(tmp_path: Path) -> None:
    with start(work, str(tmp_path)) as context:
        await_ranks(context, tmp_path)
        stacks = context.dump_stacks()
    assert all("in work" in stacks[rank] for rank in range(2))


def test_a_stopped_rank_shows_its_state_in_place_of_its_stack(tmp_path: Path) -> None:
    with start(work, str(tmp_path)) as context:
        await_ranks(context, tmp_path)
        os.kill(context.pids()[1], signal.SIGSTOP)
        stacks = context.dump_stacks()
        assert "in work" in stacks[0]
        assert stacks[1].startswith(
            "(the rank did not answer in time: the state of its process is T"
        )


def test_processes_have_the_interface_of_multiprocessing(tmp_path: Path) -> None:
    with start(work, str(tmp_path)) as context:
        process: Any = context.processes[0]
        assert process.is_alive()
        assert process.exitcode is None
        process.join(0.01)
        assert re.fullmatch(r"CommandProcess-\d+", process.name)
        assert process.ident == process.pid
        assert repr(process).endswith("alive>")
        process.kill()
        process.join(30)
        assert process.exitcode == -signal.SIGKILL
        assert repr(process).endswith("exitcode=-9>")


@pytest.mark.parametrize("returns", [True, False])
def test_out_of_memory_kills_are_counted_on_the_host_of_the_rank(
    returns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rank may be in another cgroup, which the counter of the caller does not cover."""
    monkeypatch.setattr(oom, "count_kills", lambda: {"/counter/of/the/caller": 0})
    with pytest.raises(ProcessExitedException) as caught:
        launch(die_of_kill, returns, nprocs=1)
    (failure,) = caught.value.failures
    assert failure.signal_name == "SIGKILL"
    assert re.search("oom_kill in /|no counter", failure.evidence)
    assert "of/the/caller" not in failure.evidence


def die_of_kill(rank: int, returns: bool) -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    atexit.register(die) if returns else die()


def test_results_can_be_read_later_than_the_contact_timeout() -> None:
    """A busy caller is no lost caller."""
    options = standin.options(contact_timeout=3)
    with start(make_large, 30 << 20, options=options) as context:
        time.sleep(7)
        assert [len(result) for result in context.results()] == [30 << 20] * 2

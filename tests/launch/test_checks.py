"""What a call's arguments become: the launch and its spec, or an error that names the argument."""

from __future__ import annotations

import marshal
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections import UserDict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from procession import PerRank, RankPlace, Signals
from procession._launch import checks, rendezvous, spec
from procession._launch.environment import merge, plan_environments
from procession._launch.platform import count_processors
from procession.protocol import Capabilities, Launch


def backend(**more: Any) -> Any:
    fields = {"name": "mine", "capabilities": Capabilities(), "options": ("one", "two"), **more}
    return SimpleNamespace(**fields)


def check(**more: Any) -> Launch:
    keywords = {name: more.pop(name) for name in list(more) if name in checks.KEYWORDS}
    call = {"fn": print, "args": (), "nprocs": 2, "daemon": False, "join": True, "kwargs": None}
    maker = more.pop("backend", backend())
    return checks.check_launch(maker, **{**call, **more}, keywords=keywords)


def test_defaults_of_a_launch() -> None:
    launch = check()
    assert (launch.fn, launch.args, launch.nprocs, launch.start_method) == (print, (), 2, "mine")
    assert (launch.daemon, launch.wants_results, launch.supervise) == (False, False, False)
    assert (launch.timeout, launch.grace_period, launch.options) == (None, None, {})
    assert (launch.allow_early_exit, launch.keep_daemons, launch.fail_fast) == (False, False, True)
    assert (launch.environments, launch.rendezvous, launch.name) == (({}, {}), False, "print")
    assert launch.signals == Signals()


def test_who_supervises_and_who_prints_errors() -> None:
    for join, supervise, supervised, prints in (
        (True, False, False, False),
        (True, True, False, False),
        (False, True, True, False),
        (False, False, False, True),
    ):
        launch = check(join=join, supervise=supervise)
        assert (launch.supervise, launch.prints_errors) == (supervised, prints)
    assert not check(join=False).supervise


def test_what_cannot_be_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        TypeError, match=r"fn must be callable, as fn\(rank, \*args\), not NoneType"
    ):
        check(fn=None)
    own: Any = multiprocessing.current_process()
    monkeypatch.setattr(own, "_inheriting", True, raising=False)
    with pytest.raises(checks.ImportingError, match="starts ranks while a rank imports it"):
        check()
    monkeypatch.undo()
    monkeypatch.setitem(own._config, "daemon", True)
    with pytest.raises(AssertionError, match=r"'MainProcess' .* is daemonic; start it without"):
        check()
    monkeypatch.setattr(own, "_name", "PoolWorker-1")
    with pytest.raises(
        AssertionError, match=r"multiprocessing\.Pool makes all its workers daemonic"
    ):
        check()


def test_results_are_wanted_by_either_argument() -> None:
    assert check(wants_results=True).wants_results
    assert check(collect_results=True).wants_results


def test_keywords_that_do_not_exist_are_named_with_the_nearest() -> None:
    with pytest.raises(TypeError, match="'tiemout'; did you mean 'timeout'"):
        check_keyword("tiemout")
    with pytest.raises(TypeError, match="'join_'; did you mean 'join'"):
        check_keyword("join_")
    with pytest.raises(TypeError, match="'xyz'; known: name, env, timeout, "):
        check_keyword("xyz")


def check_keyword(name: str) -> None:
    checks.check_keywords({"env": None, name: 1})


def test_seconds() -> None:
    for value in (0, 0.0, 3, 2.5, float("inf")):
        found = checks.check_seconds("timeout", value)
        assert (found, type(found)) == (value, float)
    assert checks.check_seconds("timeout", None) is None
    for wrong, error in ((True, TypeError), ("1", TypeError), (-1e-9, ValueError)):
        with pytest.raises(error, match="timeout must"):
            checks.check_seconds("timeout", wrong)
    with pytest.raises(ValueError, match="must be a number of seconds, not nan"):
        checks.check_seconds("timeout", float("nan"))


def test_signals() -> None:
    one, two = signal.SIGUSR1, signal.SIGUSR2
    found = checks.check_signals(Signals(forward=[one, two], keep_handlers=1))  # type: ignore[arg-type]
    assert found == Signals((10, 12), True)
    assert [type(number) for number in found.forward] == [int, int]
    assert checks.check_signals(None) == checks.check_signals(Signals()) == Signals()
    for forward, error, text in (
        (10, TypeError, "must be a tuple of signals, not 10"),
        (None, TypeError, "must be a tuple of signals, not None"),
        ((one, "a", "b"), TypeError, "must hold signals, as signal.SIGUSR1, not 'a'"),
        ((one, signal.SIGTERM), ValueError, "may hold SIGUSR1 and SIGUSR2, not SIGTERM"),
    ):
        with pytest.raises(error, match=text):
            checks.check_signals(Signals(forward=forward))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"must be a procession\.Signals or None, not tuple"):
        checks.check_signals((one,))


def test_names() -> None:
    assert checks.check_name("mine", print) == "mine"
    assert checks.check_name(None, partial(partial(print, 1), 2)) == "print"
    assert checks.check_name(None, UserDict()) == "UserDict"
    with pytest.raises(TypeError, match="name must be a str or None, not int"):
        checks.check_name(3, print)


def test_a_rendezvous_is_what_the_backend_declares_unless_it_is_given() -> None:
    for declared in (False, True):
        one = backend(capabilities=Capabilities(rendezvous=declared))
        assert checks.check_rendezvous(None, one) is declared
        assert checks.check_rendezvous(True, one) is True
        assert checks.check_rendezvous(False, one) is False
    older = backend(capabilities=SimpleNamespace())
    assert checks.check_rendezvous(None, older) is False
    with pytest.raises(TypeError, match="rendezvous must be a bool or None, not 1"):
        checks.check_rendezvous(1, older)


def test_the_number_of_ranks() -> None:
    remote = backend(capabilities=Capabilities(remote=True))
    assert checks.check_nprocs(backend(), 1, {}) == 1
    assert checks.check_nprocs(backend(), None, {}) == count_processors()
    assert checks.check_nprocs(backend(default_nprocs=len), None, {"a": 1, "b": 2}) == 2
    assert checks.check_nprocs(backend(default_nprocs=len), 3, {"a": 1, "b": 2}) == 3
    assert checks.check_nprocs(remote, 3, {}) == 3
    with pytest.raises(TypeError, match="'mine' has no default number of ranks"):
        checks.check_nprocs(remote, None, {})
    for wrong, error, text in (
        (0, ValueError, "at least 1, not 0"),
        (1.0, TypeError, "an int, not float 1.0"),
        (True, TypeError, "an int, not the bool True"),
    ):
        with pytest.raises(error, match=f"nprocs must be {text}"):
            checks.check_nprocs(remote, wrong, {})


def test_options() -> None:
    bare: Any = SimpleNamespace(name="bare")
    assert checks.check_options(backend(), None) == {}
    assert checks.check_options(backend(), UserDict(one=1)) == {"one": 1}
    with pytest.raises(ValueError, match="does not know 'three'; it knows one, two"):
        checks.check_options(backend(), {"one": 1, "three": 3})
    with pytest.raises(ValueError, match="does not know 'one'; it takes no options"):
        checks.check_options(bare, {"one": 1})


def test_arguments_of_each_rank() -> None:
    launch = check(kwargs={"sep": ","}, args=[1, 2])
    bound: Any = launch.fn
    assert (bound.func, bound.keywords, launch.args) == (print, {"sep": ","}, (1, 2))
    assert check(kwargs={}).fn is print
    launch = check(fn=tell, args=PerRank([(1,), [2]]), kwargs={"word": "w"})
    assert [launch.fn(rank, *launch.args) for rank in (0, 1)] == [(0, (1,), "w"), (1, (2,), "w")]
    launch = check(fn=tell, args=PerRank(lambda place: (place.rank, place.nprocs)))
    assert [launch.fn(rank, *launch.args)[1] for rank in (0, 1)] == [(0, 2), (1, 2)]
    for values, text in (
        ([(1,)], "of 2 ranks or a function, not those of 1"),
        (3, "of 2 ranks or a function, not 3"),
    ):
        with pytest.raises(ValueError, match=text):
            check(args=PerRank(values))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="args: the value of PerRank for rank 1 must be a tuple"):
        check(args=PerRank([(1,), 2]))  # type: ignore[list-item]
    for kwargs in (["a"], {1: "a"}):
        with pytest.raises(TypeError, match="kwargs must be a mapping from str, or None"):
            check(kwargs=kwargs)


def tell(rank: int, *args: Any, word: str = "") -> tuple[int, tuple[Any, ...], str]:
    return rank, args, word


def test_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan_environments(None, 2) == ({}, {})
    assert plan_environments({"A": Path("/b"), "C": None}, 2) == ({"A": "/b", "C": None},) * 2  # type: ignore[dict-item]
    places: list[RankPlace] = []

    def plan(place: RankPlace) -> dict[str, str]:
        places.append(place)
        return {"R": str(place.rank)}

    assert plan_environments(plan, 2) == ({"R": "0"}, {"R": "1"})
    assert [(one.nprocs, one.local_rank, one.local_nprocs) for one in places] == [
        (2, 0, 2),
        (2, 1, 2),
    ]
    assert merge({"A": "1", "B": "2"}, {"A": None, "C": "3"}) == {"B": "2", "C": "3"}
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK"):
        monkeypatch.delenv(name, raising=False)
    first, second = plan_environments({"MASTER_ADDR": "mine"}, 2, rendezvous=True)
    assert (first["MASTER_ADDR"], first["RANK"], second["RANK"]) == ("mine", "0", "1")
    assert plan_environments(None, 1, rendezvous=True, remote=True) == ({},)


@pytest.mark.parametrize("text", ["", "A=B", "A\0B"])
def test_names_and_values_that_no_environment_holds(text: str) -> None:
    with pytest.raises(ValueError, match="no environment can hold"):
        plan_environments({text: "1"}, 1)
    with pytest.raises(ValueError, match="no environment can hold"):
        plan_environments({"A": "a\0b"}, 1)
    for name, value in (("A\udfff", "1"), ("A", "\udfff")):
        with pytest.raises(ValueError, match="cannot be encoded"):
            plan_environments({name: value}, 1)


def test_the_variables_of_a_rendezvous() -> None:
    assert rendezvous.compose_variables(5, 8, (1, 4), 1, ("host", "7")) == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "GROUP_RANK": "1",
        "MASTER_ADDR": "host",
        "MASTER_PORT": "7",
    }
    given = {"MASTER_ADDR": "host", "MASTER_PORT": "7"}
    assert rendezvous.find_master(given) == ("host", "7")
    for wrong in ({**given, "RANK": "0"}, {**given, "MASTER_ADDR": ""}, {"MASTER_ADDR": "host"}):
        assert rendezvous.find_master(wrong) is None


def test_a_free_port_is_free_and_not_one_that_the_kernel_assigns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        lowest = int(file.read().split()[0])
    assert rendezvous._read_lowest() == lowest
    for _ in range(20):
        port = rendezvous.find_free_port()
        assert 1024 <= port < lowest
        with socket.socket() as sock:
            sock.bind(("", port))
            monkeypatch.setattr(
                os, "urandom", lambda _size, port=port: (port - 1024).to_bytes(4, "big")
            )
            monkeypatch.setattr(rendezvous, "_read_lowest", lambda: 2**16)
            assert rendezvous.find_free_port() == 0
        monkeypatch.undo()

    def fail(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(rendezvous, "open", fail, raising=False)
    assert rendezvous._read_lowest() == 32768


def test_the_spec_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = check(args=(1,), nprocs=3, daemon=True, wants_results=True)
    found = spec.make_spec(launch, "fork", forked=True)
    assert (found["start_method"], found["context"], found["forked"]) == ("mine", "fork", True)
    assert (found["nprocs"], found["daemon"], found["wants_results"]) == (3, True, True)
    assert (found["parent_pid"], found["parent_name"]) == (os.getpid(), "MainProcess")
    assert (len(found["launch_id"]), len(found["authkey"]), found["tracker"]) == (16, 32, -1)
    assert found["authkey"] == multiprocessing.current_process().authkey
    whole = spec.make_bootstrap_spec(launch, "spawn", forked=False)
    assert marshal.loads(marshal.dumps(dict(whole))) == whole
    assert (whole["mark"], whole["cwd"], whole["main"]) == (0, None, None)
    assert spec.make_bootstrap_spec(launch, "forkserver", forked=True)["capabilities"] is None
    assert spec.find_entry_module(launch) == ""
    assert spec.find_entry_module(launch.replace(entry=("a.b:c.d", ""))) == "a.b"
    monkeypatch.setattr(sys, "path", ["/one", Path("/two"), ""])
    assert spec.list_path()[:2] == ["/one", "/two"]
    assert "" not in spec.list_path()
    monkeypatch.delattr(sys, "argv")
    assert spec.list_arguments() == []
    with pytest.raises(TypeError, match=r"sys\.argv\[1\] is \(3,\) \(tuple\): ranks can receive"):
        spec.plain_list("sys.argv", ["a", (3,)])
    assert spec.find_folder() == os.getcwd()


def test_ranks_are_numbered_as_multiprocessing_numbers_processes() -> None:
    code = """
from procession._launch.numbering import identify_ranks
print(identify_ranks(2), identify_ranks(1))
import multiprocessing.process
print(identify_ranks(3), next(multiprocessing.process._process_counter), identify_ranks(1))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["(1,) (3,)", "(4,) 7 (8,)"], done.stderr


@pytest.mark.parametrize("number", [0, 1, 2])
def test_ranks_share_no_resource_tracker_where_a_stream_is_closed(number: int) -> None:
    code = (
        f"import os; os.close({number})\n"
        "from procession._launch.spec import tracker_fd; os._exit(tracker_fd() + 1)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

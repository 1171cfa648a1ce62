"""What a rank sees: itself, its environment, its streams, its exit; and what it does not import."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ranks
from procession import RankInfo, get_context, rank_info, run, set_rank_info, start_processes
from scripts import PROGRAMS, run_program, start

TITLES = {"fork": "Fork", "spawn": "Spawn", "forkserver": "ForkServer"}


def next_number() -> int:
    """Return the number that this process gives to the next process that it starts."""
    import multiprocessing

    return int(multiprocessing.Process().name.rpartition("-")[2]) + 1


def test_processes_are_numbered_through_the_life_of_their_caller(start_method: str) -> None:
    import multiprocessing

    arguments: dict[str, Any] = {"nprocs": 2, "join": False, "start_method": start_method}
    with start_processes(ranks.nothing, **arguments) as first:
        with start_processes(ranks.nothing, **arguments) as second:
            names = [one.name for context in (first, second) for one in context.processes]
            assert second.wait()
        assert first.wait()
    names.append(multiprocessing.Process().name)
    numbers = [int(name.rpartition("-")[2]) for name in names]
    assert numbers == list(range(numbers[0], numbers[0] + 5))
    with_parent = run(name_of_nested, (start_method,), start_method=start_method)[0]
    assert with_parent == f"{TITLES[start_method]}Process-{numbers[0] + 5}:1"


def name_of_nested(rank: int, start_method: str) -> str:
    import multiprocessing

    assert multiprocessing.current_process().name.count(":") == 0
    return str(run(name_in_log, start_method=start_method)[0])


def test_a_rank_is_a_child_process_to_multiprocessing(start_method: str) -> None:
    import multiprocessing

    first = next_number()
    for rank, seen in enumerate(run(ranks.see_yourself, nprocs=2, start_method=start_method)):
        assert seen == {
            "name": f"{TITLES[start_method]}Process-{first + rank}",
            "daemon": False,
            "parent": os.getpid(),
            "parent alive": True,
            "alive": True,
            "pid": True,
            "method": start_method,
            "authkey": bytes(multiprocessing.current_process().authkey),
            "stdin": "",
            "group": True,
        }


def test_log_records_name_the_process(start_method: str) -> None:
    number = next_number()
    names = run(name_in_log, nprocs=1, start_method=start_method)
    assert names == [f"{TITLES[start_method]}Process-{number}"]


def name_in_log(rank: int) -> str | None:
    import logging

    return logging.LogRecord("name", 0, "path", 1, "text", (), None).processName


def test_exit_flushes_queues_handlers_and_streams(
    start_method: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    queue = get_context(start_method).Queue()
    context = start_processes(
        ranks.flush_late, (queue, str(tmp_path / "file")), 2, join=False, start_method=start_method
    )
    assert [len(queue.get()) for _ in range(2)] == [300_000, 300_000]
    assert context.wait()
    assert [(tmp_path / f"file.{rank}").read_text() for rank in range(2)] == ["at exit"] * 2
    assert capfd.readouterr().out.count("a line without end") == 2
    queue.close()
    queue.join_thread()


def test_exit_waits_for_threads(start_method: str, tmp_path: Path) -> None:
    start_processes(write_in_thread, (str(tmp_path / "late"),), 1, start_method=start_method)
    assert (tmp_path / "late").read_text() == "by a thread"


def write_in_thread(rank: int, path: str) -> None:
    import threading
    import time

    def write() -> None:
        time.sleep(0.2)
        Path(path).write_text("by a thread")

    threading.Thread(target=write).start()


def test_callers_exit_handlers_do_not_run_in_ranks(start_method: str) -> None:
    done = run_program("registers_an_exit_handler.py", start_method)
    assert done.stdout.count("handler") == 1
    assert done.stdout.count("buffered") == 1


def test_local_ranks_have_no_rendezvous_unless_it_is_asked_for(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    seen = run(ranks.see_environment, nprocs=2, start_method=start_method)
    assert not [name for one in seen for name in VARIABLES if name in one]
    seen = run(ranks.see_environment, nprocs=2, start_method=start_method, rendezvous=True)
    for rank, one in enumerate(seen):
        values = [one[name] for name in VARIABLES]
        assert values[:6] == [str(rank), "2", str(rank), "2", "0", "127.0.0.1"]
        assert 1024 <= int(values[6]) < 65536
    assert seen[0]["MASTER_PORT"] == seen[1]["MASTER_PORT"]


VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK"),
    *("MASTER_ADDR", "MASTER_PORT"),
)


def test_a_rendezvous_replaces_an_inherited_one_and_keeps_the_callers_address(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1234")
    monkeypatch.delenv("RANK", raising=False)
    [one] = run(ranks.see_environment, start_method=start_method, rendezvous=True)
    assert (one["MASTER_ADDR"], one["MASTER_PORT"]) == ("10.0.0.1", "1234")
    monkeypatch.setenv("RANK", "7")
    monkeypatch.setenv("WORLD_SIZE", "16")
    [one] = run(ranks.see_environment, start_method=start_method)
    assert (one["RANK"], one["WORLD_SIZE"], one["MASTER_ADDR"]) == ("7", "16", "10.0.0.1")
    env = {"MASTER_PORT": "99"}
    [one] = run(ranks.see_environment, start_method=start_method, rendezvous=True, env=env)
    assert (one["RANK"], one["MASTER_ADDR"], one["MASTER_PORT"]) == ("0", "127.0.0.1", "99")
    with pytest.raises(TypeError, match="rendezvous must be a bool or None"):
        run(ranks.nothing, rendezvous="yes")  # type: ignore[call-overload]


def test_env_is_for_all_or_by_rank(start_method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOVED", "here")
    for_all = {"GIVEN": "yes", "REMOVED": None, "RANK": None}
    seen = run(ranks.see_environment, nprocs=2, start_method=start_method, env=for_all)
    assert [one.get("GIVEN") for one in seen] == ["yes", "yes"]
    assert not any("REMOVED" in one or "RANK" in one for one in seen)
    seen = run(
        ranks.see_environment,
        nprocs=2,
        start_method=start_method,
        env=lambda place: {"GIVEN": str(place.rank * 2)},
    )
    assert [one["GIVEN"] for one in seen] == ["0", "2"]
    assert "GIVEN" not in os.environ
    assert os.environ["REMOVED"] == "here"


@pytest.mark.parametrize(
    "start_method", ["fork", "spawn"]
)  # a server has imported the module before
def test_env_applies_before_a_rank_imports(
    start_method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reads_environment.py").write_text(
        "import os\nSEEN = os.environ.get('GIVEN')\ndef tell(rank):\n    return SEEN\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    seen = run(
        import_and_get,
        nprocs=2,
        start_method=start_method,
        env=lambda place: {"GIVEN": f"to {place.rank}"},
    )
    assert seen == ["to 0", "to 1"]


def import_and_get(rank: int) -> str:
    import reads_environment  # type: ignore[import-not-found]

    seen: str = reads_environment.tell(rank)
    return seen


def test_ranks_have_the_callers_environment_of_the_moment(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forkserver started before the environment changed."""
    run(ranks.see_environment, start_method=start_method)
    monkeypatch.setenv("SET_LATER", "yes")
    assert run(ranks.see_environment, start_method=start_method)[0]["SET_LATER"] == "yes"
    monkeypatch.delenv("SET_LATER")
    assert "SET_LATER" not in run(ranks.see_environment, start_method=start_method)[0]


def test_ranks_have_the_callers_folder_and_streams_of_the_moment(
    start_method: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run(print_folder, start_method=start_method)
    capfd.readouterr()
    monkeypatch.chdir(tmp_path)
    run(print_folder, start_method=start_method)
    assert capfd.readouterr().out == f"{tmp_path}\n"


def print_folder(rank: int) -> None:
    print(os.getcwd())


def test_rank_info_has_the_place(start_method: str) -> None:
    first, second = run(get_info, nprocs=2, start_method=start_method)
    assert first is not None
    assert first == RankInfo(0, 2, 0, 2, start_method, first.launch_id)
    assert second == RankInfo(1, 2, 1, 2, start_method, first.launch_id)
    (other,) = run(get_info, start_method=start_method)
    assert other is not None
    assert other.launch_id != first.launch_id
    assert rank_info() is None


def get_info(rank: int) -> RankInfo | None:
    return rank_info()


@pytest.mark.parametrize("start_method", ["spawn"])
def test_a_rank_imports_no_more_than_it_needs(start_method: str, tmp_path: Path) -> None:
    path = tmp_path / "lean.py"
    path.write_text("import sys\ndef tell(rank):\n    return sorted(sys.modules)\n")
    code = (
        "import json, lean; from procession import run; "
        f"print(json.dumps(run(lean.tell, start_method={start_method!r})[0]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    modules = set(json.loads(done.stdout))
    ours = {name for name in modules if name.startswith("procession")}
    assert ours == {
        "procession",
        "procession._rank.bootstrap",
        "procession._rank.parent_death",
        "procession._rank.identity",
        "procession._linux",
        "procession._python",
        "procession._python.fd_numbers",
        "procession._linux.memory",  # a result may be large
        "procession._rank",
        "procession._rank.life",
        "procession._rank.report",
        "procession._rank.stacks",
        "procession._rank.wire",
    }
    assert not modules & FORBIDDEN


FORBIDDEN = {
    "importlib_metadata",
    "importlib.metadata",
    "typing_extensions",
    "typing",
    "dataclasses",
    "multiprocessing",
    "pickle",
    "logging",
    "subprocess",
    "socket",
    "threading",
}
"""Modules that no rank imports unless its function does."""


def test_a_rank_imports_a_script_as_its_main_module_and_little_else(
    tmp_path: Path,
) -> None:
    path = tmp_path / "script.py"
    shutil.copy(PROGRAMS / "sees_its_main_module.py", path)
    done = start(tmp_path, "script.py", "argument")
    assert done.returncode == 0, done.stderr
    number, kinds, file, argv, modules = json.loads(done.stdout)
    assert number == 2
    assert kinds == "[<class 'module'>, '__mp_main__', True]"
    assert Path(file) == path
    assert argv == ["script.py", "argument"]
    assert not {"runpy", "pkgutil", "typing", "dataclasses", "multiprocessing"} & set(modules)


CALLS = (
    *("get_context", "run", "spawn", "start_processes"),
    *("ProcessExitedException", "ProcessRaisedException", "ProcessTimeoutError", "ResultError"),
)
"""Names that a main module imports, as does each rank that imports the main module."""


@pytest.mark.parametrize(
    ("statement", "modules"),
    [
        ("import procession", ()),
        (
            f"from procession import {', '.join(CALLS)}",
            ("procession.api", "procession.exceptions"),
        ),
    ],
    ids=["the package", "the calls"],
)
def test_importing_procession_imports_little_else(statement: str, modules: tuple[str, ...]) -> None:
    code = f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    imported = {name for name in done.stdout.split() if not name.startswith("importlib")}
    assert imported <= {"procession", "__future__", "atexit", "warnings", *modules}


def test_no_core_module_imports_torch() -> None:
    source = Path(__file__).parents[2] / "src"
    assert not [path for path in source.rglob("*.py") if "import torch" in path.read_text()]


def test_ranks_see_the_daemon_flag(start_method: str) -> None:
    seen: list[dict[str, Any]] = run(ranks.see_yourself, start_method=start_method, daemon=True)
    assert seen[0]["daemon"] is True


def test_a_backend_can_set_the_rank_info_of_its_ranks(start_method: str) -> None:
    """The last value set counts, in that rank alone."""
    place = RankInfo(5, 7, 1, 2, "other", "0123456789abcdef")
    assert run(set_and_get, (place,), start_method=start_method) == [place]
    assert rank_info() is None


def set_and_get(rank: int, place: RankInfo) -> RankInfo | None:
    set_rank_info(place)
    return rank_info()

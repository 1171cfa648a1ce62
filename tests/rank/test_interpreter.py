"""Ranks run under the caller's interpreter, with its options; without one, errors say what to do."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from procession import list_backends
from scripts import HELPERS, run_program

METHODS = ("fork", "spawn", "forkserver", "command", "command by python")

OPTIONS = [
    [
        *("-O", "-B", "-s", "-b", "-q", "-u", "--check-hash-based-pycs", "never"),
        *("-W", "error::UserWarning", "-W", "ignore:a message:DeprecationWarning"),
        *("-X", "utf8=1", "-X", "faulthandler", "-X", "tracemalloc=3", "-X", "frozen_modules=off"),
        *("-X", "int_max_str_digits=0", "-X", "no_debug_ranges", "-X", "warn_default_encoding"),
        *("-X", "pycache_prefix=FOLDER", "-X", "an_option_of=my own", "-X", "cpu_count=3"),
    ],
    ["-OO", "-X", "dev", "-bb", "-W", "error::BytesWarning", "-W", "once", "-X", "utf8=0"],
    *(["-E"], ["-I"], ["-S"], ["-X", "dev", "-W", "error"]),
]
if sys.version_info >= (3, 11):
    OPTIONS.append(["-P"])


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options[0])
def test_ranks_run_with_the_interpreter_options_of_the_caller(
    options: list[str], tmp_path: Path
) -> None:
    import procession

    folders = (str(Path(procession.__file__).parents[1]), str(HELPERS))
    options = [option.replace("FOLDER", str(tmp_path / "pyc")) for option in options]
    environment = {**os.environ, "STANDIN": ""}
    environment.pop("PYTHONUNBUFFERED", None)
    for method in METHODS:
        if method.startswith("command") and "-S" in options:
            continue  # an agent imports what is installed
        arguments = (method, *folders)
        done = run_program(
            "compares_interpreter_options.py",
            *arguments,
            flags=options,
            check=False,
            env=environment,
        )
        assert done.stdout == "[]\n", f"{method}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize(
    "options",
    [["-X", "dev", "-W", "error"], ["-X", "dev", "-X", "tracemalloc=5"], ["-bb", "-W", "error"]],
    ids=" ".join,
)
def test_strict_options_report_nothing_when_processes_end(
    options: list[str], tmp_path: Path
) -> None:
    env = {**os.environ, "STANDIN": ""}
    for method in METHODS[:4]:
        done = run_program(
            "succeeds_and_fails_quietly.py", method, flags=options, check=False, env=env
        )
        lines = [line for line in done.stderr.splitlines() if not line.startswith("Terminating")]
        assert (done.returncode, lines, done.stdout) == (0, [], ""), method


# Without an interpreter


def embed(*arguments: str, **options: Any) -> str:
    """Run the program that launches under another sys.executable, and return what it printed."""
    return run_program("embeds_python.py", *arguments, **options).stdout


@pytest.fixture
def server_program(tmp_path: Path) -> str:
    path = tmp_path / "uwsgi"
    path.write_text("#!/bin/sh\necho x >> $0.started\nexit ${STATUS-1}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("how", ["none", "empty", "another program", "/nowhere/server"])
def test_without_an_interpreter_fork_works_and_the_others_say_what_to_do(
    start_method: str, how: str, tmp_path: Path, server_program: str
) -> None:
    how = server_program if how == "another program" else how
    said, outcome = embed(start_method, how).splitlines()
    if start_method == "fork":
        assert outcome == "[0, 1]"
        assert said.startswith("ok sys.executable is")
        assert "outlive this process" in said
    else:
        assert said.startswith("unavailable sys.executable is")
        assert outcome.startswith("BackendUnavailableError")
        assert "sys.executable is" in outcome
        assert "multiprocessing.set_executable" in outcome
    started = Path(f"{server_program}.started")
    assert (
        not started.exists() or started.read_text() == "x\n"
    )  # started once at most, to find out what it is


@pytest.mark.parametrize("kind", ["str", "bytes", "Path"])
@pytest.mark.parametrize("how", ["none", "empty", "another program"])
def test_all_methods_work_with_set_executable(
    start_method: str, how: str, kind: str, tmp_path: Path, server_program: str
) -> None:
    how = server_program if how == "another program" else how
    assert embed(start_method, how, kind) == "ok \n[0, 1]\n"
    assert not Path(f"{server_program}.started").exists()


@pytest.mark.parametrize("status", ["0", "1"])
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_the_error_names_a_program_that_is_only_named_like_python(
    start_method: str, status: str, tmp_path: Path, server_program: str
) -> None:
    path = os.path.join(os.path.dirname(server_program), "python-server")
    os.rename(server_program, path)
    environment = {**os.environ, "STATUS": status}
    text = embed(start_method, path, env=environment)
    assert f"is {path!r} a Python interpreter?" in text
    assert "multiprocessing.set_executable" in text


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_the_error_names_an_interpreter_that_does_not_exist(
    start_method: str, tmp_path: Path
) -> None:
    text = embed(start_method, "/nowhere/python").splitlines()[1]
    assert text.startswith("FileNotFoundError")
    assert "multiprocessing.set_executable" in text
    assert "'/nowhere/python'" in text


def test_an_interpreter_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "trainer"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    for method in ("fork", "spawn", "forkserver"):
        assert embed(method, str(path)) == "ok \n[0, 1]\n"


def test_no_agent_is_placed_without_an_interpreter(tmp_path: Path) -> None:
    text = run_program("places_agents_without_python.py", str(tmp_path / "started")).stdout
    assert "sys.executable is None" in text
    assert "multiprocessing.set_executable" in text
    assert not (tmp_path / "started").exists()


def test_backends_give_no_reason_where_there_is_an_interpreter() -> None:
    assert not any(one.reason for one in list_backends() if one.origin == "built-in")

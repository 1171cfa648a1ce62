"""The commands `procession run` and `procession backends`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from installing import TORCH_KILLER, run_python, write_distribution, write_plugin
from procession.cli import main
from scripts import PROGRAMS

WORK = PROGRAMS / "has_functions_to_run.py"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with `WORK` as work.py."""
    folder = tmp_path / "some folder"
    folder.mkdir()
    shutil.copy(WORK, folder / "work.py")
    return folder


def procession(
    *arguments: str, cwd: Path | None = None, path: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "procession", *arguments, cwd=cwd, path=path, **variables)


def run_work(work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return procession("run", *arguments, cwd=work)


# run


def test_run_calls_a_function_of_a_file(work: Path, start_method: str) -> None:
    ended = procession(
        *("run", "-n", "2", "--start-method", start_method, "--env", "COLOUR=a=b"),
        *(f"{work}/work.py:show", "x", "-n", "--", "--timeout", "y"),
    )
    assert ended.returncode == 0, ended.stderr
    arguments = "('x', '-n', '--', '--timeout', 'y')"
    assert sorted(ended.stdout.splitlines()) == [
        f"0 of 2: {arguments} a=b",
        f"1 of 2: {arguments} a=b",
    ]


@pytest.mark.parametrize("target", ["work:show", "work.py:show", "./work.py:show"])
def test_run_finds_modules_and_files_of_this_folder(work: Path, target: str) -> None:
    ended = run_work(work, target)
    assert (ended.returncode, ended.stdout) == (0, "0 of 1: () None\n"), ended.stderr


def test_run_calls_a_static_method(work: Path) -> None:
    assert run_work(work, "work:Job.show").stdout == "job 0\n"


def test_the_installed_script_runs_a_function(work: Path) -> None:
    script = Path(sysconfig.get_path("scripts"), "procession")
    if not script.exists():
        pytest.skip("procession is not installed here: pip install .")
    ended = subprocess.run(
        [script, "run", "work:show"], cwd=work, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "0 of 1: () None\n"), ended.stderr


def test_a_failed_rank_shows_its_traceback_and_the_status_is_1(
    work: Path, start_method: str
) -> None:
    ended = run_work(work, "-n", "2", "--start-method", start_method, "work:fail")
    assert ended.returncode == 1
    assert "-- Process 1 terminated with the following error:" in ended.stderr
    assert "LookupError: rank one gave up" in ended.stderr
    assert "procession/api.py" not in ended.stderr  # the traceback of the caller


def test_the_exit_code_of_a_rank_is_shown(work: Path) -> None:
    ended = run_work(work, "work:leave")
    assert ended.returncode == 1
    assert "exit code 7" in ended.stderr


def test_run_stops_at_its_timeout(work: Path) -> None:
    before = time.monotonic()
    ended = run_work(work, "--timeout", "1", "work:sleep")
    assert ended.returncode == 1
    assert time.monotonic() - before < 20
    assert "procession/api.py" not in ended.stderr


def test_the_status_after_an_interrupt_is_130(work: Path) -> None:
    command = [sys.executable, "-m", "procession", "run", "-n", "2", "work:sleep"]
    with subprocess.Popen(
        command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        assert [process.stdout.readline() for _ in range(2)] == ["asleep\n"] * 2
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["work"], "'work' is not MODULE:FUNCTION or FILE.py:FUNCTION"),
        (["work:"], "'work:' is not MODULE:FUNCTION"),
        (["work:none"], "work has no 'none'"),
        (["work.py:Job.none"], "work.py has no 'Job.none'"),
        (["work:number"], "work:number is not a function but int"),
        (["absent.py:show"], "there is no file absent.py"),
        (["absent:show"], "cannot import absent: ModuleNotFoundError: No module named 'absent'"),
        (["bad.py:show"], "cannot import bad: ZeroDivisionError: division by zero ("),
        (["clash/json.py:show"], "json.py cannot be imported as 'json': that name refers to "),
        (
            ["clash/sys.py:show"],
            "sys.py cannot be imported as 'sys': that name refers to built-in",
        ),
        (["clash/a.b.py:show"], "rename the file, or name its package as MODULE:FUNCTION"),
        (["clash/__main__.py:show"], "rename the file, or name its package as MODULE:FUNCTION"),
        (["-n", "0", "work:show"], "nprocs"),
        (["--timeout", "-1", "work:show"], "timeout"),
        (["--start-method", "sprawn", "work:show"], "did you mean 'spawn'?"),
        (["--start-method", "mpi", "work:show"], "pip install ./plugins/procession-mpi"),
    ],
)
def test_a_bad_call_prints_one_line_and_the_status_is_2(
    work: Path, arguments: list[str], message: str
) -> None:
    clash = work / "clash"
    clash.mkdir()
    for name in ("json", "sys", "a.b", "__main__"):
        shutil.copy(WORK, clash / f"{name}.py")
    work.joinpath("bad.py").write_text("x = 0\n1 / x\n")
    ended = run_work(work, *arguments)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("procession: error: ")
    assert message in line


@pytest.mark.parametrize(
    "arguments",
    [[], ["run"], ["run", "-n", "x", "a:b"], ["run", "--env", "A", "a:b"], ["none"]],
)
def test_a_bad_command_line_shows_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: procession" in capsys.readouterr().err


# backends


def test_backends_are_listed(tmp_path: Path) -> None:
    write_plugin(tmp_path, "some-plugin", "some", "cli_listed")
    write_distribution(tmp_path, "killer", text=TORCH_KILLER)
    tmp_path.joinpath("cli_listed.py").write_text("raise SystemError('was imported')")
    ended = procession("backends", path=tmp_path)
    assert ended.returncode == 0
    assert "RuntimeWarning: cannot read the entry points of killer" in ended.stderr
    head, *rows = (re.split(r"  +", line) for line in ended.stdout.splitlines())
    assert head == ["NAME", "ORIGIN", "DISTRIBUTION", "STATUS", "REASON"]
    table = {row[0]: row[1:] for row in rows}
    assert table["fork"][0] == "built-in"
    assert table["fork"][1].startswith("procession")
    assert table["some"] == ["third-party", "some-plugin 1.0", "not loaded"]


def test_the_option_check_imports_the_plugins(tmp_path: Path) -> None:
    write_plugin(tmp_path, "good-plugin", "good", "cli_good")
    write_distribution(tmp_path, "bad-plugin", {"bad": "cli_no_such_module:Backend"})
    ended = procession("backends", "--check", "--json", path=tmp_path)
    assert ended.returncode == 0
    infos = {info["name"]: info for info in json.loads(ended.stdout)}
    assert infos["good"]["status"] == "ok"
    assert infos["good"]["capabilities"]["signals"] is True
    assert infos["bad"]["status"] == "broken"
    assert "cli_no_such_module" in infos["bad"]["reason"]
    assert infos["fork"]["version"]


@pytest.mark.parametrize(
    ("arguments", "status", "returncode"),
    [
        (["fork"], "ok", 0),
        (["good"], "not loaded", 0),
        (["good", "--check"], "ok", 0),
        (["good-plugin:good", "--check"], "ok", 0),
        (["bad"], "not loaded", 0),
        (["bad", "--check"], "broken", 1),
        (["both"], "ambiguous", 1),
        (["absent"], "unknown", 1),
        (["mpi"], "unknown", 1),
    ],
)
def test_the_backend_that_is_named_decides_the_exit_status(
    tmp_path: Path, arguments: list[str], status: str, returncode: int
) -> None:
    write_plugin(tmp_path, "good-plugin", "good", "cli_good")
    write_distribution(tmp_path, "bad-plugin", {"bad": "cli_none:Backend", "both": "a:b"})
    write_distribution(tmp_path, "other-plugin", {"both": "c:d"})
    ended = procession("backends", *arguments, "--json", path=tmp_path)
    (info,) = json.loads(ended.stdout)
    assert (info["status"], ended.returncode) == (status, returncode)


def test_the_status_with_an_invalid_allow_list_is_2(tmp_path: Path) -> None:
    ended = procession("backends", PROCESSION_PLUGINS="a;b")
    assert ended.returncode == 2
    assert ended.stderr.startswith("procession: error: PROCESSION_PLUGINS='a;b'")


def test_run_ignores_the_start_method_of_the_environment(work: Path) -> None:
    environment = {**os.environ, "PROCESSION_START_METHOD": "no-such-method"}
    command = [sys.executable, "-m", "procession", "run", "work:show"]
    ended = subprocess.run(command, cwd=work, env=environment, capture_output=True, check=False)
    assert ended.returncode == 0

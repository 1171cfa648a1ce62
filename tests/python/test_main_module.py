"""Scripts that another program than the interpreter runs: profilers, runpy, debuggers, exec."""

from __future__ import annotations

import os
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest

from scripts import PROGRAMS, run_program, start

WITH_AND_WITHOUT = pytest.mark.parametrize("cloudpickle", ["with", "without"])

RUNNERS = {
    "cProfile": ["-m", "cProfile", "SCRIPT"],
    "profile": ["-m", "profile", "SCRIPT"],
    "trace": ["-m", "trace", "--count", "-C", "FOLDER", "SCRIPT"],
    "cProfile -m": ["-m", "cProfile", "-m", "script"],
    "pdb": ["-m", "pdb", "-c", "continue", "-c", "quit", "SCRIPT"],
    "runpy": ["RUNNER", "SCRIPT"],
    "runpy, with an older main": ["RUNNER", "SCRIPT"],
    "run twice": ["RUNNER", "SCRIPT"],
    "exec": ["RUNNER", "SCRIPT"],
    "exec without a file": ["RUNNER", "SCRIPT"],
    "exec into the runner": ["RUNNER", "SCRIPT"],
    "a profiler's spec": ["RUNNER", "SCRIPT"],
    "coverage": ["-m", "coverage", "run", "--data-file=FOLDER/data", "SCRIPT"],
}

SOURCES = {  # in text: tests differ in what the runner imports and defines, and in how it runs the script
    "runpy": "import runpy\nrunpy.run_path(path, run_name='__main__')",
    "runpy, with an older main": """
        import multiprocessing, runpy
        class Answer: pass
        class Odd(Exception): pass
        runpy.run_path(path, run_name="__main__")
    """,
    "run twice": """
        import multiprocessing, types
        for _ in range(2):  # as IPython's %run does
            module = types.ModuleType("__main__")
            module.__file__ = path
            sys.modules["__main__"] = module
            exec(compile(open(path).read(), path, "exec"), vars(module))
            sys.modules.pop("__mp_main__", None) if _ else sys.modules.update(__mp_main__=module)
    """,
    "exec": """
        exec(compile(open(path).read(), path, "exec"), {"__name__": "__main__", "__file__": path})
    """,
    "exec without a file": """
        exec(compile(open(path).read(), path, "exec"), {"__name__": "__main__"})
    """,
    "a profiler's spec": """
        import types
        from importlib.machinery import ModuleSpec
        sys.modules["__main__"] = module = types.ModuleType("__main__")
        module.__file__, module.__spec__ = path, ModuleSpec("__main__", None)
        exec(compile(open(path).read(), path, "exec"), vars(module))
    """,
    "exec into the runner": 'exec(compile(open(path).read(), path, "exec"))',
}


def write_runner(folder: Path, source: str) -> None:
    """Write a program that runs another one, which its first argument names."""
    start = "import sys\npath = sys.argv[1]\n"
    (folder / "runner.py").write_text(start + textwrap.dedent(source))


@pytest.mark.parametrize(
    ("runner", "cloudpickle"),
    [(name, "without") for name in RUNNERS]
    + [(name, "with") for name in ("cProfile", "runpy", "exec")],
)
def test_objects_of_a_scripts_classes_go_to_ranks_and_back(
    runner: str, start_method: str, cloudpickle: str, tmp_path: Path
) -> None:
    if runner == "coverage":
        pytest.importorskip("coverage", reason="pip install coverage")
    if cloudpickle == "with":
        pytest.importorskip("cloudpickle", reason="pip install cloudpickle")
    shutil.copy(PROGRAMS / "answers.py", tmp_path / "script.py")
    write_runner(tmp_path, SOURCES.get(runner, ""))
    words = {"FOLDER": str(tmp_path), "SCRIPT": "script.py", "RUNNER": "runner.py"}
    command = " ".join(RUNNERS[runner])
    for word, value in words.items():
        command = command.replace(word, value)
    done = start(tmp_path, *command.split(), start_method, cloudpickle=cloudpickle)
    assert "fine" in done.stdout, done.stdout + done.stderr


def test_objects_of_a_scripts_classes_come_through_a_queue(
    start_method: str, tmp_path: Path
) -> None:
    shutil.copy(PROGRAMS / "puts_into_a_queue.py", tmp_path / "script.py")
    write_runner(tmp_path, SOURCES["runpy, with an older main"])
    done = start(tmp_path, "runner.py", "script.py", start_method)
    assert "fine" in done.stdout, done.stdout + done.stderr


def test_a_rank_that_fails_does_not_import_cloudpickle_for_its_exception(
    start_method: str,
) -> None:
    done = run_program("raises_what_cannot_be_pickled.py", start_method)
    assert "spared" in done.stdout, done.stdout + done.stderr
    assert "main__.Odd" in done.stdout


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_objects_of_a_scripts_classes_come_back_to_a_thread(
    start_method: str, tmp_path: Path
) -> None:
    shutil.copy(PROGRAMS / "answers.py", tmp_path / "script.py")
    command = ("-m", "cProfile", "script.py", "in-a-thread", start_method)
    done = start(tmp_path, *command, cloudpickle="without")
    assert "fine" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_script_in_a_named_pipe_goes_by_value(start_method: str, tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle", reason="pip install cloudpickle")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(
        ["tee", str(pipe)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as tee:
        assert tee.stdin is not None
        tee.stdin.write((PROGRAMS / "prints_ranks.py").read_bytes())
        tee.stdin.close()
        done = start(tmp_path, str(pipe), start_method)
    assert done.stdout == "[0, 1]\n", done.stderr


@WITH_AND_WITHOUT
@pytest.mark.parametrize("place", ["/dev/stdin", "/dev/fd/{}", "/proc/self/fd/{}"])
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_script_that_is_no_file_goes_by_value(
    start_method: str, place: str, cloudpickle: str, tmp_path: Path
) -> None:
    with (PROGRAMS / "prints_ranks.py").open("rb") as file:
        options: dict[str, Any] = {"pass_fds": [file.fileno()]}
        if place == "/dev/stdin":
            options = {"stdin": file}
        name = place.format(file.fileno())
        done = start(tmp_path, name, start_method, cloudpickle=cloudpickle, **options)
    if cloudpickle == "with":
        pytest.importorskip("cloudpickle", reason="pip install cloudpickle")
        assert done.stdout == "[0, 1]\n", done.stderr
    else:
        assert "which ranks cannot import" in done.stderr
        assert "pip install cloudpickle" in done.stderr
        assert "start_method='fork'" in done.stderr


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_function_under_the_guard_is_explained(start_method: str) -> None:
    done = run_program("defines_under_the_guard.py", start_method, check=False)
    assert "Can't get attribute 'work'" in done.stderr
    assert "what is under `if __name__ == '__main__':` exists only in the launching" in done.stderr

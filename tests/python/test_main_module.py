"""Scripts that something else than the interpreter runs: profilers, runpy, debuggers, exec."""

from __future__ import annotations

import os
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest

from scripts import start

WITH_AND_WITHOUT = pytest.mark.parametrize("cloudpickle", ["with", "without"])

SCRIPT = """
import sys
from procession import ProcessRaisedException, run

class Answer:
    def __init__(self, value):
        self.value = value

class Odd(Exception):
    pass

class Work:
    def method(self, rank, value, fail=False):
        return work(rank, value, fail)

def work(rank, value, fail=False):
    assert type(value) is Answer
    if fail:
        raise Odd(rank)
    return Answer(value.value + rank)

def main(method):
    for fn in (work, Work().method):
        got = run(fn, (Answer(3),), nprocs=2, start_method=method, timeout=50)
        assert all(type(one) is Answer for one in got), got
        assert [one.value for one in got] == [3, 4]
        try:
            run(fn, (Answer(3), True), nprocs=1, start_method=method, timeout=50)
        except ProcessRaisedException as error:
            assert type(error.failures[0].load_exception()) is Odd
    print("fine")

if __name__ == "__main__":
    main(sys.argv[-1])
"""

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

SOURCES = {
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


@pytest.mark.parametrize(
    ("runner", "cloudpickle"),
    [(name, "without") for name in RUNNERS]
    + [(name, "with") for name in ("cProfile", "runpy", "exec")],
)
def test_what_a_script_defines_goes_to_ranks_and_comes_back_as_that(
    runner: str, start_method: str, cloudpickle: str, tmp_path: Path
) -> None:
    if runner == "coverage":
        pytest.importorskip("coverage", reason="pip install coverage")
    if cloudpickle == "with":
        pytest.importorskip("cloudpickle", reason="pip install cloudpickle")
    (tmp_path / "script.py").write_text(SCRIPT)
    source = "import sys\npath = sys.argv[1]\n" + textwrap.dedent(SOURCES.get(runner, ""))
    (tmp_path / "runner.py").write_text(source)
    words = {"FOLDER": str(tmp_path), "SCRIPT": "script.py", "RUNNER": "runner.py"}
    command = " ".join(RUNNERS[runner])
    for word, value in words.items():
        command = command.replace(word, value)
    done = start(tmp_path, *command.split(), start_method, cloudpickle=cloudpickle)
    assert "fine" in done.stdout, done.stdout + done.stderr


QUEUE = """
import sys
from procession import get_context, run

class Answer:
    pass

def work(rank, queue):
    queue.put(Answer())

if __name__ == "__main__":
    queue = get_context(sys.argv[-1]).SimpleQueue()
    run(work, (queue,), nprocs=2, start_method=sys.argv[-1], timeout=50)
    assert type(queue.get()) is type(queue.get()) is Answer
    print("fine")
"""


def test_so_does_what_comes_by_a_queue(start_method: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(QUEUE)
    source = "import sys\npath = sys.argv[1]\n" + textwrap.dedent(
        SOURCES["runpy, with an older main"]
    )
    (tmp_path / "runner.py").write_text(source)
    done = start(tmp_path, "runner.py", "script.py", start_method)
    assert "fine" in done.stdout, done.stdout + done.stderr


UNPICKLABLE_ERROR = """
import sys, threading
from procession import ProcessRaisedException, run

class Odd(Exception):
    def __init__(self):
        self.lock = threading.Lock()

def fail(rank):
    try:
        raise Odd
    finally:
        import atexit
        atexit.register(lambda: print("imported" if "cloudpickle" in sys.modules else "spared"))

if __name__ == "__main__":
    try:
        run(fail, start_method=sys.argv[1])
    except ProcessRaisedException as error:
        print(error.failures[0].type_name)
"""


def test_a_rank_that_fails_does_not_import_cloudpickle_for_its_exception(
    start_method: str, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(UNPICKLABLE_ERROR)
    done = start(tmp_path, "script.py", start_method)
    assert "spared" in done.stdout, done.stdout + done.stderr
    assert "main__.Odd" in done.stdout


FROM_A_THREAD = (
    SCRIPT[: SCRIPT.index("if __name__")]
    + """
if __name__ == "__main__":
    from concurrent.futures import ThreadPoolExecutor
    from procession import start_processes
    with ThreadPoolExecutor(1) as pool:
        method = sys.argv[1]
        options = {"fork_check": "off"} if method == "fork" else None
        options = {"start_method": method, "options": options, "collect_results": True}
        made = pool.submit(start_processes, work, (Answer(3),), 2, False, **options)
        got = pool.submit(made.result().results).result()
    assert all(type(one) is Answer for one in got), got
    print("fine")
"""
)


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_so_does_what_a_thread_launches(start_method: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(FROM_A_THREAD)
    done = start(tmp_path, "-m", "cProfile", "script.py", start_method, cloudpickle="without")
    assert "fine" in done.stdout, done.stdout + done.stderr


TYPED = """
from procession import run

def work(rank):
    return rank

if __name__ == "__main__":
    print(run(work, nprocs=2, start_method="{method}"))
"""


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_pipe_with_a_name_is_no_file(start_method: str, tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle", reason="pip install cloudpickle")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(
        ["tee", str(pipe)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as tee:
        assert tee.stdin is not None
        tee.stdin.write(TYPED.format(method=start_method).encode())
        tee.stdin.close()
        done = start(tmp_path, str(pipe))
    assert done.stdout == "[0, 1]\n", done.stderr


@WITH_AND_WITHOUT
@pytest.mark.parametrize("place", ["/dev/stdin", "/dev/fd/{}", "/proc/self/fd/{}"])
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_script_that_is_no_file_goes_by_value(
    start_method: str, place: str, cloudpickle: str, tmp_path: Path
) -> None:
    text = tmp_path / "text.py"
    text.write_text(TYPED.format(method=start_method))
    with text.open("rb") as file:
        options: dict[str, Any] = {"pass_fds": [file.fileno()]}
        if place == "/dev/stdin":
            options = {"stdin": file}
        name = place.format(file.fileno())
        done = start(tmp_path, name, cloudpickle=cloudpickle, **options)
    if cloudpickle == "with":
        pytest.importorskip("cloudpickle", reason="pip install cloudpickle")
        assert done.stdout == "[0, 1]\n", done.stderr
    else:
        assert "which ranks cannot import" in done.stderr
        assert "pip install cloudpickle" in done.stderr
        assert "start_method='fork'" in done.stderr


UNDER_A_GUARD = """
import sys
from procession import run

if __name__ == "__main__":
    def work(rank):
        return rank

    run(work, nprocs=2, start_method=sys.argv[1])
"""


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_function_under_the_guard_is_explained(start_method: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(UNDER_A_GUARD)
    done = start(tmp_path, "script.py", start_method)
    assert "Can't get attribute 'work'" in done.stderr
    assert "what is under `if __name__ == '__main__':` exists only in the launching" in done.stderr

"""A launch while a rank imports or unpickles for its own would go on without end: it is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import ranks
from procession import run
from through import Through

OTHERS = pytest.mark.parametrize("start_method", ["spawn", "forkserver", "command"])

COUNTED = """
import os, sys
with open(os.environ["BODIES"], "a") as file:
    file.write("x")
if os.path.getsize(os.environ["BODIES"]) > 30:
    os._exit(99)
"""

LAUNCH = """
import standin
from procession import run

OPTIONS = {"command": standin.options()} if os.environ["METHOD"] == "command" else {}

def launch(fn, *args):
    method = os.environ["METHOD"]
    return run(fn, args, 2, start_method=method, options=OPTIONS.get(method), timeout=50)

def work(rank, *args):
    return rank
"""


@pytest.fixture
def bodies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which each run of a module's body leaves a byte."""
    path = tmp_path / "bodies"
    path.write_text("")
    monkeypatch.setenv("BODIES", str(path))
    return path


def execute(folder: Path, start_method: str, script: str, **modules: str) -> Any:
    """Run a script beside modules; return how it ended."""
    for name, text in {"script": script, **modules}.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[1]), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, str(folder / "script.py")],
        env={**os.environ, "METHOD": start_method, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )


def line_of(text: str, marked: str) -> int:
    return text[: text.index(marked)].count("\n") + 1


SELF_LAUNCHING = COUNTED + LAUNCH + "RESULT = launch(work)  # the line\n"
GUARDED = "if __name__ == '__main__':\n    import looping\n    print(looping.RESULT)\n"


@OTHERS
def test_a_module_that_launches_what_it_defines_is_refused(
    start_method: str, tmp_path: Path, bodies: Path
) -> None:
    done = execute(tmp_path, start_method, GUARDED, looping=SELF_LAUNCHING)
    assert done.returncode == 1
    assert bodies.stat().st_size <= 4  # the caller's, a server's, two ranks'
    line = line_of(SELF_LAUNCHING, "RESULT =")
    named = (
        f"module 'looping' ({tmp_path}/looping.py, line {line}) starts ranks while a rank imports"
    )
    assert named in done.stderr
    assert "Move the call into a function" in done.stderr


def test_under_fork_it_works(tmp_path: Path, bodies: Path) -> None:
    done = execute(tmp_path, "fork", GUARDED, looping=SELF_LAUNCHING)
    assert done.stdout == "[0, 1]\n", done.stderr
    assert bodies.stat().st_size == 1


@OTHERS
def test_a_main_module_without_a_guard_is_refused(
    start_method: str, tmp_path: Path, bodies: Path
) -> None:
    done = execute(tmp_path, start_method, SELF_LAUNCHING)
    assert done.returncode == 1
    assert bodies.stat().st_size <= 4
    line = line_of(SELF_LAUNCHING, "RESULT =")
    assert f"the main module ({tmp_path}/script.py, line {line}) starts ranks" in done.stderr
    assert "if __name__ == '__main__':" in done.stderr


STARTER = LAUNCH + "import looping\ndef begin():\n    launch(looping.work)\n"
LATE = COUNTED + "def work(rank): return rank\nimport starter\nstarter.begin()  # the line\n"


@OTHERS
def test_the_line_named_is_the_modules_not_that_of_what_it_calls(
    start_method: str, tmp_path: Path, bodies: Path
) -> None:
    script = "if __name__ == '__main__':\n    import looping\n"
    done = execute(tmp_path, start_method, script, looping=LATE, starter="import os\n" + STARTER)
    assert done.returncode == 1
    assert bodies.stat().st_size <= 4
    line = line_of(LATE, "starter.begin")
    assert f"module 'looping' ({tmp_path}/looping.py, line {line})" in done.stderr


UNPICKLED = (
    COUNTED
    + LAUNCH
    + """
class Value:
    def __reduce__(self):
        return make, ()

def make():
    return launch(work, Value())

if __name__ == "__main__":
    launch(work, Value())
"""
)


@OTHERS
def test_what_is_unpickled_may_not_launch(start_method: str, tmp_path: Path, bodies: Path) -> None:
    done = execute(tmp_path, start_method, UNPICKLED)
    assert done.returncode == 1
    assert bodies.stat().st_size <= 4
    assert f"({tmp_path}/script.py, line " in done.stderr
    assert "starts ranks while a rank imports it" in done.stderr


FROM_A_THREAD = (
    COUNTED
    + LAUNCH
    + """
import threading, time
def begin():
    if __name__ != "{script}":
        while sys.modules["procession._rank.life"].loading:
            time.sleep(0.001)
    launch(work)
thread = threading.Thread(target=begin)
thread.start()
thread.join(0 if __name__ != "{script}" else None)
"""
)


@pytest.mark.parametrize("start_method", ["spawn", "command"])
def test_a_thread_that_an_import_started_may_not_launch_later_either(
    start_method: str, tmp_path: Path, bodies: Path
) -> None:
    execute(tmp_path, start_method, FROM_A_THREAD.replace("{script}", "__main__"))
    assert bodies.stat().st_size <= 3


NESTED = """
from procession import run
import os, ranks
RESULT = run(ranks.give, nprocs=2, start_method=os.environ["METHOD"])
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_function_may_import_a_module_that_launches_something_else(
    start_method: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"nested_{start_method}_{method}.py").write_text(NESTED)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"nested_{start_method}_{method}"
    assert run(import_late, (name, method), start_method=start_method) == [[(0,), (1,)]]


def import_late(rank: int, name: str, method: str) -> Any:
    os.environ["METHOD"] = method
    return __import__(name).RESULT


@pytest.mark.parametrize("base", ["spawn", "forkserver"])
def test_an_entry_may_not_launch(
    base: str, tmp_path: Path, bodies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"entry_of_{base}"
    (tmp_path / f"{name}.py").write_text(
        COUNTED + "from procession import run\n"
        "def enter(rank, _): pass\n"
        f"run(abs, start_method={base!r})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(Exception, match=f"module '{name}' .* starts ranks while a rank imports"):
        run(abs, start_method=Through(base, entry=(f"{name}:enter", None)))
    assert bodies.stat().st_size <= 3


@pytest.mark.parametrize("start_method", ["forkserver"])
def test_a_preloaded_module_may_not_launch(
    start_method: str, tmp_path: Path, bodies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "preloaded_launcher.py").write_text(
        COUNTED + f"from procession import run\nrun(abs, start_method={start_method!r})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RuntimeError, match=r"module 'preloaded_launcher' \(.*, line \d+\) starts"):
        run(abs, start_method=start_method, options={"preload": ["preloaded_launcher"]})
    assert bodies.stat().st_size == 1


OF_MULTIPROCESSING = (
    COUNTED
    + LAUNCH
    + """
import multiprocessing
def nothing():
    pass
launch(abs)
process = multiprocessing.get_context("spawn").Process(target=nothing)
process.start()
process.join()
sys.exit(process.exitcode)
"""
)


def test_a_process_of_multiprocessing_that_imports_main_may_not_launch(
    tmp_path: Path, bodies: Path
) -> None:
    done = execute(tmp_path, "spawn", OF_MULTIPROCESSING)
    assert done.returncode == 1
    assert bodies.stat().st_size == 2
    assert "the main module" in done.stderr
    assert "starts ranks while a rank imports it" in done.stderr


PRELOAD = """
import multiprocessing, sys
from procession import run

def see(rank):
    return "wave" in sys.modules

if __name__ == "__main__":
    where = multiprocessing.get_context("forkserver") if sys.argv[1:] else multiprocessing
    where.set_forkserver_preload(["__main__", "wave"])
    print(run(see, nprocs=2, start_method="forkserver"))
"""


@pytest.mark.parametrize("arguments", [[], ["context"]])
def test_the_preload_list_of_multiprocessing_counts(arguments: list[str], tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(PRELOAD)
    done = subprocess.run(
        [sys.executable, str(path), *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[True, True]\n", done.stderr


def test_what_multiprocessing_does_not_use_costs_no_import() -> None:
    code = (
        "import sys\nfrom procession import run\nrun(abs, start_method='forkserver')\n"
        "print('multiprocessing.forkserver' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr


def test_threads_that_were_there_before_do_not_count(start_method: str) -> None:
    assert run(launch_in_thread, (start_method,), start_method=start_method) == [[(0,)]]


def launch_in_thread(rank: int, start_method: str) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        options = {"fork_check": "off"} if start_method == "fork" else None
        return pool.submit(
            run, ranks.give, (), 1, start_method=start_method, options=options
        ).result()

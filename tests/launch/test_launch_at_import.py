"""A launch while a rank imports or unpickles is refused: it would start ranks without end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ranks
from procession import run
from scripts import HELPERS, PROGRAMS, run_program
from through import Through

OTHERS = pytest.mark.parametrize("start_method", ["spawn", "forkserver", "command"])

COUNTED = "from endless import count_body\ncount_body()\n"
LAUNCHES_AT_IMPORT = PROGRAMS / "launches_at_import.py"


@pytest.fixture
def bodies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a byte for each run of a module's body."""
    path = tmp_path / "bodies"
    path.write_text("")
    monkeypatch.setenv("BODIES", str(path))
    return path


def execute(program: Path, start_method: str) -> subprocess.CompletedProcess[str]:
    """Run a program, and return how it ended."""
    env = {**os.environ, "METHOD": start_method}
    return run_program(str(program), check=False, env=env)


def line_of(text: str, marked: str) -> int:
    return text[: text.index(marked)].count("\n") + 1


@pytest.fixture
def guarded(tmp_path: Path) -> Path:
    """A program that imports `LAUNCHES_AT_IMPORT`, as the module ``looping``, in the caller alone."""
    shutil.copy(LAUNCHES_AT_IMPORT, tmp_path / "looping.py")
    path = tmp_path / "script.py"
    path.write_text("if __name__ == '__main__':\n    import looping\n    print(looping.RESULT)\n")
    return path


@OTHERS
def test_a_module_that_launches_what_it_defines_is_refused(
    start_method: str, guarded: Path, bodies: Path
) -> None:
    done = execute(guarded, start_method)
    assert done.returncode == 1
    assert bodies.stat().st_size <= 4  # the caller's, a server's, two ranks'
    line = line_of(LAUNCHES_AT_IMPORT.read_text(), "RESULT =")
    place = f"module 'looping' ({guarded.with_name('looping.py')}, line {line})"
    assert f"{place} starts ranks while a rank imports" in done.stderr
    assert "Move the call into a function" in done.stderr


def test_forked_ranks_may_use_a_module_that_launches_what_it_defines(
    guarded: Path, bodies: Path
) -> None:
    done = execute(guarded, "fork")
    assert done.stdout == "[0, 1]\n", done.stderr
    assert bodies.stat().st_size == 1


@OTHERS
def test_a_main_module_without_a_guard_is_refused(start_method: str, bodies: Path) -> None:
    done = execute(LAUNCHES_AT_IMPORT, start_method)
    assert done.returncode == 1
    assert bodies.stat().st_size <= 4
    line = line_of(LAUNCHES_AT_IMPORT.read_text(), "RESULT =")
    assert f"the main module ({LAUNCHES_AT_IMPORT}, line {line}) starts ranks" in done.stderr
    assert "if __name__ == '__main__':" in done.stderr


STARTER = "import looping\nfrom endless import launch\ndef begin():\n    launch(looping.work)\n"
LATE = COUNTED + "def work(rank): return rank\nimport starter\nstarter.begin()  # the line\n"


@OTHERS
def test_the_error_names_the_line_of_the_module_not_of_what_it_calls(
    start_method: str, tmp_path: Path, bodies: Path
) -> None:
    script = "if __name__ == '__main__':\n    import looping\n"
    for name, text in {"script": script, "looping": LATE, "starter": STARTER}.items():
        (tmp_path / f"{name}.py").write_text(text)
    done = execute(tmp_path / "script.py", start_method)
    assert done.returncode == 1
    assert bodies.stat().st_size <= 4
    line = line_of(LATE, "starter.begin")
    assert f"module 'looping' ({tmp_path}/looping.py, line {line})" in done.stderr


@OTHERS
def test_unpickling_may_not_launch(start_method: str, bodies: Path) -> None:
    program = PROGRAMS / "launches_when_unpickled.py"
    done = execute(program, start_method)
    assert done.returncode == 1
    assert bodies.stat().st_size <= 4
    assert f"({program}, line " in done.stderr
    assert "starts ranks while a rank imports it" in done.stderr


@pytest.mark.parametrize("start_method", ["spawn", "command"])
def test_a_thread_that_an_import_started_may_not_launch_later(
    start_method: str, bodies: Path
) -> None:
    execute(PROGRAMS / "launches_in_a_thread.py", start_method)
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


def test_a_process_of_multiprocessing_that_imports_main_may_not_launch(bodies: Path) -> None:
    done = execute(PROGRAMS / "launches_and_spawns.py", "spawn")
    assert done.returncode == 1
    assert bodies.stat().st_size == 2
    assert "the main module" in done.stderr
    assert "starts ranks while a rank imports it" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["context"]])
def test_a_forkserver_preloads_the_list_of_multiprocessing(arguments: list[str]) -> None:
    done = run_program("preloads_by_multiprocessing.py", *arguments)
    assert done.stdout == "[True, True]\n"


def test_a_launch_does_not_import_the_forkserver_of_multiprocessing() -> None:
    code = (
        "import sys\nfrom procession import run\nrun(abs, start_method='forkserver')\n"
        "print('multiprocessing.forkserver' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr


def test_a_thread_that_fn_starts_may_launch(start_method: str) -> None:
    assert run(launch_in_thread, (start_method,), start_method=start_method) == [[(0,)]]


def launch_in_thread(rank: int, start_method: str) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        options = {"fork_check": "off"} if start_method == "fork" else None
        return pool.submit(
            run, ranks.give, (), 1, start_method=start_method, options=options
        ).result()


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_a_launch_in_a_sitecustomize_is_refused_in_ranks_and_helpers(
    start_method: str, tmp_path: Path, bodies: Path
) -> None:
    """Interpreters of multiprocessing, such as its resource tracker, run it too."""
    source = (
        COUNTED
        + f"import procession\nprocession.run(abs, nprocs=1, start_method={start_method!r})\n"
    )
    (tmp_path / "sitecustomize.py").write_text(source)
    path = os.pathsep.join([str(tmp_path), str(HELPERS), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-c", "pass"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert bodies.stat().st_size <= 5  # the caller's, a rank's, a server's, a tracker's, a reaper's

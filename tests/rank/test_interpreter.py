"""Ranks run under the interpreter that the caller has, with its options; what becomes of them without one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import standin
from procession import list_backends
from scripts import execute

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

FACTS = """
    import _imp, sys
    sys.path.append({tests!r})
    sys.path.append({source!r})
    from procession import run

    def facts():
        names = [name for name in dir(sys.flags) if not name.startswith(("_", "n_"))]
        leave = ("count", "index", "interactive", "inspect", "hash_randomization")
        return [
            {{name: getattr(sys.flags, name) for name in names if name not in leave}},
            sys._xoptions, sys.warnoptions, sys.pycache_prefix, _imp.check_hash_based_pycs,
            sys.stdout.write_through,
        ]

    def work(rank):
        return facts()

    if __name__ == "__main__":
        method, mine = sys.argv[1], work(0)
        options = None
        if method.startswith("command"):
            import standin
            options = standin.options()
            if method != "command":  # agents whose own options are others
                options["python"] = sys.executable
        (theirs,) = run(work, nprocs=1, start_method=method.split()[0], options=options)
        print([pair for pair in zip(mine, theirs) if pair[0] != pair[1]])
"""


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options[0])
def test_the_callers_options_are_the_ranks(options: list[str], tmp_path: Path) -> None:
    import procession

    source, tests = Path(procession.__file__).parents[1], Path(standin.__file__).parent
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(FACTS.format(source=str(source), tests=str(tests))))
    options = [option.replace("FOLDER", str(tmp_path / "pyc")) for option in options]
    environment = {**os.environ, "STANDIN": ""}
    environment.pop("PYTHONUNBUFFERED", None)
    for method in METHODS:
        if method.startswith("command") and "-S" in options:
            continue  # it needs what is installed
        done = subprocess.run(
            [sys.executable, *options, str(script), method],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
        )
        assert done.stdout == "[]\n", f"{method}: {done.stdout}{done.stderr}"


QUIET = """
    import sys
    from procession import run, start_processes

    def len_of(rank, data):
        return len(data)

    def fail(rank):
        raise ValueError("on purpose")

    if __name__ == "__main__":
        method = sys.argv[1]
        options = None
        if method == "command":
            sys.path.append({tests!r})
            import standin
            options = standin.options()
        call = {{"start_method": method, "options": options}}
        for size in (1, 1 << 20):
            assert run(len_of, (bytearray(size),), 2, **call) == [size, size]
        try:
            run(fail, nprocs=2, **call)
        except Exception as error:
            assert "on purpose" in str(error)
"""


@pytest.mark.parametrize(
    "options",
    [["-X", "dev", "-W", "error"], ["-X", "dev", "-X", "tracemalloc=5"], ["-bb", "-W", "error"]],
    ids=" ".join,
)
def test_strict_options_find_nothing_at_any_process_end(options: list[str], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(QUIET.format(tests=str(Path(__file__).parents[1]))))
    for method in METHODS[:4]:
        done = subprocess.run(
            [sys.executable, *options, str(script), method],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "STANDIN": ""},
        )
        lines = [line for line in done.stderr.splitlines() if not line.startswith("Terminating")]
        assert (done.returncode, lines, done.stdout) == (0, [], ""), method


# Without an interpreter

EMBEDDED = """
    import os, sys
    real, (method, how, *rest) = sys.executable, sys.argv[1:]
    sys.executable = {"none": None, "empty": ""}.get(how, how)
    if rest:
        import multiprocessing, pathlib
        kinds = {"str": str, "bytes": os.fsencode, "Path": pathlib.Path}
        multiprocessing.set_executable(kinds[rest[0]](real))
    from procession import list_backends, run

    def work(rank):
        return rank

    if __name__ == "__main__":
        reasons = {one.name: (one.status, one.reason) for one in list_backends()}
        print(*reasons[method])
        try:
            print(run(work, nprocs=2, start_method=method, timeout=30))
        except Exception as error:
            print(type(error).__name__, error)
"""


@pytest.fixture
def server_program(tmp_path: Path) -> str:
    path = tmp_path / "uwsgi"
    path.write_text("#!/bin/sh\necho x >> $0.started\nexit ${STATUS-1}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("how", ["none", "empty", "another program", "/nowhere/server"])
def test_without_an_interpreter_fork_works_and_others_name_the_way_out(
    start_method: str, how: str, tmp_path: Path, server_program: str
) -> None:
    how = server_program if how == "another program" else how
    said, outcome = execute(tmp_path, EMBEDDED, start_method, how).splitlines()
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
    assert not started.exists() or started.read_text() == "x\n"  # to see what it is, and once


@pytest.mark.parametrize("kind", ["str", "bytes", "Path"])
@pytest.mark.parametrize("how", ["none", "empty", "another program"])
def test_with_set_executable_all_work(
    start_method: str, how: str, kind: str, tmp_path: Path, server_program: str
) -> None:
    how = server_program if how == "another program" else how
    assert execute(tmp_path, EMBEDDED, start_method, how, kind) == "ok \n[0, 1]\n"
    assert not Path(f"{server_program}.started").exists()


@pytest.mark.parametrize("status", ["0", "1"])
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_program_that_only_looks_like_python_is_named_in_the_error(
    start_method: str, status: str, tmp_path: Path, server_program: str
) -> None:
    path = os.path.join(os.path.dirname(server_program), "python-server")
    os.rename(server_program, path)
    environment = {**os.environ, "STATUS": status}
    told = execute(tmp_path, EMBEDDED, start_method, path, env=environment)
    assert f"is {path!r} a Python interpreter?" in told
    assert "multiprocessing.set_executable" in told


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_an_interpreter_that_is_not_there_is_named_in_the_error(
    start_method: str, tmp_path: Path
) -> None:
    told = execute(tmp_path, EMBEDDED, start_method, "/nowhere/python").splitlines()[1]
    assert told.startswith("FileNotFoundError")
    assert "multiprocessing.set_executable" in told
    assert "'/nowhere/python'" in told


def test_python_by_another_name_is_python(tmp_path: Path) -> None:
    path = tmp_path / "trainer"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    for method in ("fork", "spawn", "forkserver"):
        assert execute(tmp_path, EMBEDDED, method, str(path)) == "ok \n[0, 1]\n"


def test_agents_are_not_asked_for_without_an_interpreter(tmp_path: Path) -> None:
    text = """
        import sys
        sys.executable = None
        from procession import run
        try:
            run(abs, nprocs=2, start_method="command", options={"command": ["touch", sys.argv[1]]})
        except RuntimeError as error:
            print(error)
    """
    told = execute(tmp_path, text, str(tmp_path / "started"))
    assert "sys.executable is None" in told
    assert "multiprocessing.set_executable" in told
    assert not (tmp_path / "started").exists()


def test_backends_say_nothing_where_there_is_one() -> None:
    assert not any(one.reason for one in list_backends() if one.origin == "built-in")

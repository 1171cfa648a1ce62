"""What tells ranks of a launch: paths and strings of any class, or an error that names the wrong one."""

from __future__ import annotations

import os
import sys
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import pytest

import ranks
import standin
from procession import run
from scripts import execute


class Text(str):
    """What libraries have in place of str: numpy's, path.py's."""

    __slots__ = ()

    def __str__(self) -> str:
        return "not what it is"


class Mode(str, Enum):
    """The same, by way of enum."""

    FAST = "/opt/fast"


class Bytes:
    """A path of bytes."""

    def __fspath__(self) -> bytes:
        return b"/opt/bytes"


class Two(IntEnum):
    """A number of another class."""

    RANKS = 2


METHODS = ("fork", "spawn", "forkserver", "command")
ODD = [Path("/opt/path"), Text("/opt/text"), Mode.FAST, Bytes(), 3, 2.5, None, True, b"/opt/raw"]
PLAIN = ["/opt/path", "/opt/text", "/opt/fast", "/opt/bytes", 3, 2.5, None, True, b"/opt/raw"]


@pytest.fixture(params=METHODS)
def call(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The start method, and its options, of each local one and of `command`."""
    monkeypatch.setenv("STANDIN", "")
    options = standin.options() if request.param == "command" else None
    return {"start_method": request.param, "options": options}


def tell(rank: int) -> tuple[Any, ...]:
    return [*sys.path], [*sys.argv]


@pytest.mark.parametrize("name", ["path", "argv"])
def test_sys_path_and_argv_hold_anything_that_fork_can_have(
    name: str, call: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, name, [*getattr(sys, name), *ODD])
    for path, argv in run(tell, nprocs=Two.RANKS, **call):
        there = (path if name == "path" else argv)[-len(ODD) :]
        if call["start_method"] == "fork":
            assert [type(one).__name__ for one in there] == [type(one).__name__ for one in ODD]
        else:
            assert there == PLAIN
            assert [type(one) for one in there] == [type(one) for one in PLAIN]


@pytest.mark.parametrize("name", ["path", "argv"])
def test_an_entry_that_ranks_cannot_have_is_named(
    name: str, call: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [*getattr(sys, name), {"a": 1}]
    monkeypatch.setattr(sys, name, values)
    if call["start_method"] == "fork":
        assert run(ranks.give, nprocs=1, **call) == [(0,)]
        return
    with pytest.raises(TypeError) as caught:
        run(ranks.give, nprocs=1, **call)
    assert f"sys.{name}[{len(values) - 1}] is {{'a': 1}} (dict)" in str(caught.value)


def read_variables(rank: int) -> list[str | None]:
    return [os.environ.get(name) for name in ("A_PATH", "A_TEXT", "A_MODE", "A_BYTES", "A_STR")]


def test_env_takes_paths_and_strings_of_any_class(call: dict[str, Any]) -> None:
    env: dict[str, Any] = dict(
        zip(["A_PATH", Text("A_TEXT"), "A_MODE", "A_BYTES", "A_STR"], [*ODD[:4], "s"], strict=True)
    )
    for given in (env, lambda rank: env):
        (there,) = run(read_variables, nprocs=1, env=given, **call)
        assert there == [*PLAIN[:4], "s"]


@pytest.mark.parametrize("value", [1, b"bytes", ["a"]])
def test_env_takes_nothing_else(call: dict[str, Any], value: Any) -> None:
    with pytest.raises(TypeError, match="'A_NAME'"):
        run(read_variables, nprocs=1, env={"A_NAME": value}, **call)


def test_preloaded_modules_are_strings_of_any_class() -> None:
    class Name(str):
        __slots__ = ()

    options = {"preload": [Name("wave")]}
    (modules,) = run(ranks.see_modules, start_method="forkserver", options=options)
    assert "wave" in modules


CHANGED_FOLDER = """
    import {first}
    import os, sys
    sys.path.insert(0, "")
    sys.path.append({tests!r})
    import only_at_the_start
    os.chdir(sys.argv[2])
    from procession import run

    if __name__ == "__main__":
        method = sys.argv[1]
        options = None
        if method == "command":
            import standin
            options = standin.options()
        os.environ["STANDIN"] = ""
        call = {{"start_method": method, "options": options}}
        print(run(only_at_the_start.tell, nprocs=2, **call))
        print("" in run(only_at_the_start.list_path, nprocs=1, **call)[0])
"""


@pytest.mark.parametrize("first", ["procession", "multiprocessing.process"])
@pytest.mark.parametrize("method", ["spawn", "forkserver", "command"])
def test_the_empty_entry_is_the_folder_at_the_start(
    method: str, first: str, tmp_path: Path
) -> None:
    folder, other = tmp_path / "first", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    text = "import sys\n\ndef tell(rank):\n    return '{}'\n\ndef list_path(rank):\n    return sys.path\n"
    (folder / "only_at_the_start.py").write_text(text.format("right"))
    (other / "only_at_the_start.py").write_text(text.format("wrong"))
    script = CHANGED_FOLDER.format(first=first, tests=str(Path(__file__).parents[1]))
    told = execute(tmp_path, script, method, str(other), cwd=folder)
    assert told == "['right', 'right']\nFalse\n"


def test_the_command_line_is_that_of_the_moment(call: dict[str, Any], tmp_path: Path) -> None:
    text = f"""
        import os, sys
        sys.path.append({str(Path(__file__).parents[1])!r})
        seen_at_import = list(sys.argv)
        from procession import run

        def tell(rank):
            return sys.argv[1:], seen_at_import[1:]

        if __name__ == "__main__":
            import standin
            method = sys.argv[1]
            options = standin.options() if method == "command" else None
            for argument in ("one", "two"):
                sys.argv[1:] = [argument]
                print(*run(tell, nprocs=1, start_method=method, options=options))
    """
    method = call["start_method"]
    one, two = execute(tmp_path, text, method).splitlines()
    if method == "fork":
        assert (one, two) == (f"(['one'], [{method!r}])", f"(['two'], [{method!r}])")
    else:
        assert (one, two) == ("(['one'], ['one'])", "(['two'], ['two'])")

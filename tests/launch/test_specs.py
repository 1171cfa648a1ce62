"""Ranks get sys.path, sys.argv and env with paths and strings of any class; an error names other values."""

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
from scripts import run_program


class Text(str):
    """A subclass of str, as numpy and path.py have."""

    __slots__ = ()

    def __str__(self) -> str:
        return "not what it is"


class Mode(str, Enum):
    """A subclass of str that is an enum."""

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
def test_entries_of_sys_path_and_argv_arrive_as_plain_values(
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
def test_an_entry_that_cannot_be_sent_is_named(
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


@pytest.mark.parametrize("first", ["procession", "multiprocessing.process"])
@pytest.mark.parametrize("method", ["spawn", "forkserver", "command"])
def test_the_empty_entry_of_sys_path_stays_the_folder_at_the_start(
    method: str, first: str, tmp_path: Path
) -> None:
    folder, other = tmp_path / "first", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    text = "import sys\n\ndef tell(rank):\n    return '{}'\n\ndef list_path(rank):\n    return sys.path\n"
    (folder / "only_at_the_start.py").write_text(text.format("right"))
    (other / "only_at_the_start.py").write_text(text.format("wrong"))
    arguments = (method, str(other), first)
    done = run_program("changes_folder_before_launch.py", *arguments, cwd=folder)
    assert done.stdout == "['right', 'right']\nFalse\n"


def test_ranks_have_the_callers_command_line_of_the_moment(call: dict[str, Any]) -> None:
    method = call["start_method"]
    one, two = run_program("changes_its_command_line.py", method).stdout.splitlines()
    if method == "fork":
        assert (one, two) == (f"(['one'], [{method!r}])", f"(['two'], [{method!r}])")
    else:
        assert (one, two) == ("(['one'], ['one'])", "(['two'], ['two'])")

"""The options of the start method `command`, and those of all start methods with agents."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

import standin
from procession import Launch, Started, get_backend, run
from procession.remote import CAPABILITIES, OPTIONS, Agents, start_by_command
from procession.testing.ranks import give, see_environment


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN", "")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, "needs options={'command'"),
        ({"command": "srun"}, "needs options={'command'"),
        ({"command": ["srun", 4]}, "needs options={'command'"),
        ({"command": ["no-such-program"]}, "there is no program 'no-such-program'"),
        ({"command": ["true"], "rank_variable": 5}, r"options\['rank_variable'\] must be a str"),
        ({"command": ["true"], "advertise": 5}, r"options\['advertise'\] must be a str"),
        ({"command": ["true"], "python": ""}, r"options\['python'\] must be a str"),
        ({"command": ["true"], "port": 70000}, r"options\['port'\] must be an int from 0"),
        ({"command": ["true"], "port": True}, r"options\['port'\] must be an int from 0"),
        (
            {"command": ["true"], "start_timeout": "1"},
            r"options\['start_timeout'\] must be a number",
        ),
        (
            {"command": ["true"], "start_timeout": -1},
            r"options\['start_timeout'\] must be at least 0",
        ),
        (
            {"command": ["true"], "contact_timeout": 1},
            r"options\['contact_timeout'\] must be at least 3",
        ),
        ({"command": ["true"], "nodes": 5}, "does not know 'nodes'; it knows advertise, command"),
    ],
)
def test_the_error_names_a_bad_option(options: dict[str, Any], error: str) -> None:
    with pytest.raises((TypeError, ValueError, FileNotFoundError), match=error):
        run(give, (), 2, start_method="command", options=options)


def test_a_placeholder_says_where_the_command_of_the_agent_goes() -> None:
    options = standin.options()
    options["command"] = ["env", *options["command"], "{agent}"]
    assert run(give, (), 2, start_method="command", options=options) == [(0,), (1,)]


def test_an_option_names_another_interpreter(tmp_path: Path) -> None:
    link = tmp_path / "python-there"
    link.write_text(f'#!/bin/sh\nNAMED=1 exec {sys.executable} "$@"\n')
    link.chmod(0o755)
    options = standin.options(python=str(link))
    env = {"PYTHONPATH": os.pathsep.join(sys.path)}
    seen = run(see_environment, ("NAMED",), start_method="command", env=env, options=options)
    assert seen == [["1"]]


def test_a_short_backend_starts_agents() -> None:
    """The author's guide promises it."""
    assert run(give, (), 2, start_method=OwnBackend(), options={}) == [(0,), (1,)]


class OwnBackend:
    name = "own"
    protocol_version = 1
    capabilities = CAPABILITIES
    options = OPTIONS

    def availability(self) -> Any:
        return get_backend("command").availability()

    def start(self, launch: Launch) -> Started:
        launcher = standin.options()["command"][:2]

        def compose(agents: Agents) -> list[str]:
            return [*launcher, str(agents.nprocs), "OWN_RANK", *agents.argv]

        return start_by_command(launch, compose, rank_variables=["OWN_RANK"])

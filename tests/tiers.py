"""Choose the tests of a tier; conftest.py adds ``--tier`` to pytest.

Tier one has the fast tests of each module, and a launch of each built-in start method.  A test that runs on
several start methods runs on fork only.  Tier two has every promise on every built-in method.  Tier three is
the sessions of noxfile.py with the tag ``tier3``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

TIERS = {
    "1": ("python -m pytest", "fast tests, and a launch of each built-in start method"),
    "2": ("nox -s tests", "every promise on every built-in start method"),
    "3": ("nox -t tier3", "plugins on their engines, docs, types, wheel, frozen applications"),
    "-": ("nox -s long", "by hand: soak, repetitions, packet loss, comparisons, scale, mutants"),
}
"""The command that runs each tier, and its tests."""

ON_FORK: dict[str, tuple[str, ...]] = {
    "cleanup/test_reaper.py": (),
    "cli/test_cli.py": ("test_run_stops_at_its_timeout",),
    "faults/test_start_faults.py": ("test_a_server_killed_while_it_starts_ranks_leaves_none",),
    "launch/test_fork_check.py": (),
    "launch/test_payload.py": (),
    "launch/test_platform.py": (),
    "launch/test_specs.py": (),
    "linux/test_mechanisms.py": (),
    "project/test_rooms.py": (),
    "project/test_waits.py": (),
    "promises/test_calls.py": (
        "test_the_place_of_a_rank_that_runs_at_the_deadline_has_a_timeout_error",
    ),
    "promises/test_contract.py": (
        "test_a_rank_that_saves_on_sigterm_has_more_time_than_one_that_ignores_it",
    ),
    "python/test_defer_signals.py": (),
    "rank/test_rank.py": (),
    "rank/test_wire.py": (),
    "registry/test_catalog.py": (),
    "registry/test_discovery.py": (),
    "registry/test_plugins.py": ("test_ranks_run_under_a_third_party_start_method",),
    "registry/test_registration.py": (),
    "registry/test_registry.py": (),
    "registry/test_validation.py": (),
    "remote/test_commands.py": (),
    "remote/test_remote_hosting.py": (),
    "remote/test_remote_hub.py": (),
    "remote/test_remote_link.py": (),
    "supervise/test_context.py": (),
    "supervise/test_hangs.py": (
        "test_a_deep_stack_is_shortened_in_the_message_and_whole_in_the_failure",
        "test_a_nested_rank_offers_its_own_stacks",
        "test_a_rank_that_is_busy_in_python_is_not_harmed",
        "test_stacks_are_in_the_exception_at_a_deadline",
    ),
    "supervise/test_oom.py": (),
    "supervise/test_release.py": (
        "test_what_cannot_be_ended_is_not_released_while_it_runs",
        "test_what_ends_with_its_launch_is_released_though_no_signal_could_end_it",
    ),
    "supervise/test_verdict.py": ("test_a_group_has_one_exception_a_failed_rank",),
    "supervise/test_waiter.py": (),
}
"""The files of tier one, and the tests in each that are too slow for it."""

ON_EVERY_METHOD = "promises/test_launches.py"
"""The file of tier one whose tests run on all built-in start methods."""

_OTHERS = ("spawn", "forkserver", "command")
_HERE = Path(__file__).parent


def choose(config: pytest.Config) -> int:
    """Return the tier to run: that of ``--tier``; else 2 if paths, -k or -m are given, and 1 if not."""
    given = config.args_source is type(config).ArgsSource.ARGS
    more = given or config.option.keyword or config.option.markexpr
    return int(config.getoption("tier", None) or (2 if more else 1))


def describe(config: pytest.Config) -> list[str]:
    """Return lines that list the tiers, and say which one runs."""
    lines = [f"running tier {choose(config)} of these (paths, -k and -m select from tier 2):"]
    return lines + [f"  {one}  {command:17}  {what}" for one, (command, what) in TIERS.items()]


def leaves_out(path: Path, config: pytest.Config) -> bool:
    """Whether the tier has no test of a file."""
    if choose(config) > 1 or path.suffix != ".py":
        return False
    return _name(path) not in (*ON_FORK, ON_EVERY_METHOD)


def has(item: pytest.Item, config: pytest.Config) -> bool:
    """Whether the tier has a test."""
    if choose(config) > 1 or _name(item.path) == ON_EVERY_METHOD:
        return True
    parameters: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    if any(isinstance(one, str) and one in _OTHERS for one in parameters.values()):
        return False
    return getattr(item, "originalname", item.name) not in ON_FORK[_name(item.path)]


def _name(path: Path) -> str:
    return path.relative_to(_HERE).as_posix()

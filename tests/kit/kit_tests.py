"""The kit itself is right: what is wrong fails the tests that are named for it, and no others.

``nox -s kit`` runs this file; it is apart from the suite for the time it takes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from wrong import WRONG

from installing import write_distribution
from procession.testing.scratch import is_gone

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.leaves_things,  # the kit runs elsewhere, and what is wrong may leave things
    pytest.mark.timeout(600),  # two kits at a time, beside whatever else runs
]


def run_kit(folder: Path, *arguments: str, path: str = "") -> str:
    """Run pytest on the kit, and return what it printed."""
    options = "-q", "--tb=short", "-c", "kit.ini", "-p", "no:cacheprovider", "--basetemp"
    printed = folder / "printed"
    with printed.open("w") as file:  # no pipe, which what is left behind would hold open
        subprocess.run(
            [sys.executable, "-m", "pytest", *options, str(folder / "base"), *arguments],
            cwd=HERE,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            timeout=550,
        )
    return printed.read_text()


def lines_of(output: str, kind: str) -> set[str]:
    """Return what the summary says after a word."""
    found = (line.partition(": ") for line in output.splitlines())
    return {rest for word, _, rest in found if word == kind}


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Future[str]]]:
    """What the kit prints of each wrong backend, two at a time: mostly it waits."""
    with ThreadPoolExecutor(2) as pool:
        yield {
            name: pool.submit(
                run_kit, tmp_path_factory.mktemp(name), f"certify_wrong.py::Test{name}"
            )
            for name in WRONG
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name: str, outputs: Mapping[str, Future[str]]) -> None:
    output = outputs[name].result()
    assert lines_of(output, "failed") == WRONG[name].fails, output
    assert lines_of(output, "not certified" if WRONG[name].fails else "certified"), output


@pytest.mark.parametrize("name", ["LeavesAChild", "LeavesAStranger"])
def test_what_is_left_is_named_and_ended(name: str, outputs: Mapping[str, Future[str]]) -> None:
    output = outputs[name].result()
    # under CI pytest's summary repeats the message
    (pid,) = set(re.findall(r"^process (\d+): sleep 77$", output, re.MULTILINE))
    assert is_gone(int(pid))


@pytest.mark.parametrize("name", ["RunsInItsCaller", "RunsInItsCallerAtTimes", "RunsAllInOne"])
def test_ranks_that_share_a_process_stop_the_rest(
    name: str, outputs: Mapping[str, Future[str]]
) -> None:
    output = outputs[name].result()
    (failed,) = WRONG[name].fails
    assert "each rank must have its own process" in output
    assert f"not run: {failed} failed, and the other tests depend on it (" in output
    assert re.search("^not certified: [0-9]+ tests passed$", output, re.MULTILINE), output


def test_the_remote_part_must_be_run(tmp_path: Path) -> None:
    """All but it does not certify a backend that claims to be remote."""
    output = run_kit(tmp_path, "certify_known.py::TestFar", "-k", "is_available")
    told = "the remote part was not run: subclass procession.testing.RemoteConformance"
    assert told in lines_of(output, "not certified"), output
    assert "certified: 1 tests passed" not in output


def test_a_plugin_that_imports_an_engine_is_found(tmp_path: Path) -> None:
    site = tmp_path / "site"
    write_distribution(site, "procession-heavy", {"heavy": "heavy:Heavy"})
    site.joinpath("heavy.py").write_text(
        "import numpy\nfrom sound import Sound\nclass Heavy(Sound): name = 'heavy'\n"
    )
    arguments = (
        "--pyargs",
        "procession.testing",
        "--procession-backend",
        "heavy",
        "-k",
        "listing or light",
    )
    output = run_kit(tmp_path, *arguments, path=os.pathsep.join([str(site), str(HERE)]))
    assert lines_of(output, "failed") == {"test_it_is_light_until_it_starts"}, output
    assert "['numpy'" in output
    assert "procession-heavy 1.0, procession " in output


def test_expected_failures_are_strict_and_told(tmp_path: Path) -> None:
    output = run_kit(tmp_path, "certify_known.py", "-k", "daemons or rank_and_args or sys_exit")
    assert lines_of(output, "failed") == {"test_fn_gets_the_rank_and_args"}, output
    assert "[XPASS(strict)] it would, if it were wrong" in output
    assert lines_of(output, "known to fail") == {"test_daemons_can_not (it knows of no daemons)"}


def test_a_broken_seam_stops_the_rest(tmp_path: Path) -> None:
    output = run_kit(tmp_path, "certify_wrong.py::TestUnavailable")
    told = "not run: test_it_is_available failed, and the other tests depend on it ("
    assert any(line.startswith(told) for line in output.splitlines()), output

"""Each wrong backend fails the tests that it names, and no others, so the kit is right.

``nox -s kit`` runs this file, which is not part of the suite because it takes long.
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
    pytest.mark.leaves_things,  # the kit runs in other processes, where a wrong backend may leave things
    pytest.mark.timeout(600),  # two kits run at a time
]


def run_kit(folder: Path, *arguments: str, path: str = "") -> str:
    """Run pytest on the kit, and return what it printed."""
    options = "-q", "--tb=short", "-c", "kit.ini", "-p", "no:cacheprovider", "--basetemp"
    printed = folder / "printed"
    with printed.open("w") as file:  # no pipe, which processes left behind would hold open
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
    """Return the texts that the summary has after a word."""
    found = (line.partition(": ") for line in output.splitlines())
    return {rest for word, _, rest in found if word == kind}


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Future[str]]]:
    """Run the kit on each wrong backend, two at a time since it mostly waits; the output of each."""
    with ThreadPoolExecutor(2) as pool:
        yield {
            name: pool.submit(
                run_kit, tmp_path_factory.mktemp(name), f"certify_wrong.py::Test{name}"
            )
            for name in WRONG
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_backend_fails_the_tests_that_it_names(
    name: str, outputs: Mapping[str, Future[str]]
) -> None:
    output = outputs[name].result()
    assert lines_of(output, "failed") == WRONG[name].fails, output
    assert lines_of(output, "not certified" if WRONG[name].fails else "certified"), output


@pytest.mark.parametrize("name", ["LeavesAChild", "LeavesAStranger"])
def test_a_process_that_is_left_is_named_and_killed(
    name: str, outputs: Mapping[str, Future[str]]
) -> None:
    output = outputs[name].result()
    # in CI the summary of pytest repeats the message
    (pid,) = set(re.findall(r"^process (\d+): sleep 77$", output, re.MULTILINE))
    assert is_gone(int(pid))


@pytest.mark.parametrize("name", ["RunsInItsCaller", "RunsInItsCallerAtTimes", "RunsAllInOne"])
def test_no_further_test_runs_if_ranks_share_a_process(
    name: str, outputs: Mapping[str, Future[str]]
) -> None:
    output = outputs[name].result()
    (failed,) = WRONG[name].fails
    assert "each rank must have its own process" in output
    assert f"not run: {failed} failed, and the other tests depend on it (" in output
    assert re.search("^not certified: [0-9]+ tests passed$", output, re.MULTILINE), output


def test_a_remote_backend_is_not_certified_without_the_remote_part(tmp_path: Path) -> None:
    output = run_kit(tmp_path, "certify_known.py::TestFar", "-k", "is_available")
    reason = "the remote part was not run: subclass procession.testing.RemoteConformance"
    assert reason in lines_of(output, "not certified"), output
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


def test_expected_failures_are_strict_and_listed(tmp_path: Path) -> None:
    output = run_kit(tmp_path, "certify_known.py", "-k", "daemons or rank_and_args or sys_exit")
    assert lines_of(output, "failed") == {"test_fn_gets_the_rank_and_args"}, output
    assert "[XPASS(strict)] it would, if it were wrong" in output
    assert lines_of(output, "known to fail") == {"test_daemons_can_not (it knows of no daemons)"}


def test_no_further_test_runs_if_the_backend_is_unavailable(tmp_path: Path) -> None:
    output = run_kit(tmp_path, "certify_wrong.py::TestUnavailable")
    message = "not run: test_it_is_available failed, and the other tests depend on it ("
    assert any(line.startswith(message) for line in output.splitlines()), output

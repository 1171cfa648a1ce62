"""All fault cases again, in hostile surroundings; ``nox -s surroundings`` runs this file.

The suite leaves it out because it takes long: all cases on all start methods, in each of the surroundings.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PATHS = os.pathsep.join([str(HERE), str(HERE.parent)])

CAPABILITIES = " ".join(
    f"--{kind}={none}+dac_read_search"
    for kind, none in (("inh-caps", "-all,"), ("ambient-caps", ""), ("bounding-set", "-all,"))
)
"""Options of setpriv that leave only the right to read: the interpreter may be in another user's home."""


def play(
    folder: Path, start_method: str, *excluded: str, before: tuple[str, ...] = (), **options: Any
) -> None:
    """Play all cases in another process, and check what came of each."""
    results = folder / "results"
    stages = folder / "stages"
    stages.mkdir(mode=0o777)
    stages.chmod(0o777)
    folder.chmod(0o777)
    script = str(HERE / "play_all.py")
    process = subprocess.Popen(
        [*before, sys.executable, script, str(results), str(stages), start_method, *excluded],
        env={**os.environ, "PYTHONPATH": PATHS, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        **options,
    )
    process.wait(timeout=170)
    outcomes = json.loads(results.read_text())
    assert len(outcomes) > 50
    assert {name: text for name, text in outcomes.items() if text != "ok"} == {}


def ignoring(*numbers: signal.Signals) -> Callable[[], None]:
    """Return a function that makes a new process ignore signals."""

    def ignore() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    return ignore


def test_all_cases_pass_with_signals_ignored(start_method: str, tmp_path: Path) -> None:
    """As nohup, ``&`` in a script, and a caller that wants no zombies do.  Ranks then ignore SIGINT, too."""
    ignore = ignoring(signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    play(tmp_path, start_method, "SIGINT", preexec_fn=ignore)


def test_all_cases_pass_with_standard_streams_closed(start_method: str, tmp_path: Path) -> None:
    def close() -> None:
        os.closerange(0, 3)

    play(tmp_path, start_method, "streams", preexec_fn=close)  # this case closes them itself


@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"),
    reason="only root can make the root folder read-only, and needs unshare and setpriv (util-linux)",
)
def test_all_cases_pass_without_rights_and_with_a_read_only_root(
    start_method: str, tmp_path: Path
) -> None:
    """Only the folder of the cases can be written; the interpreter may be in another user's home."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o777)
    kept.chmod(0o777)
    become = " && ".join(
        [
            f"mount --bind {kept} {kept}",
            "mount -o remount,ro,bind /",
            "for one in /tmp /var/tmp; do mountpoint -q $one && mount -o remount,ro,bind $one; done; true",
            f'exec setpriv --reuid 65534 --regid 65534 --clear-groups {CAPABILITIES} "$@"',
        ]
    )
    play(kept, start_method, before=("unshare", "--mount", "sh", "-c", become, "sh"))

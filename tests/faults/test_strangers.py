"""No signal reaches a process that only has the process id of an ended rank.

Promise: What ranks start ends with them.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from scripts import run_program

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(
        os.getuid() != 0 or shutil.which("unshare") is None,
        reason="only root can make a namespace of process ids, and needs unshare (util-linux)",
    ),
]

AS_PROCESS_1 = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_process_1_of_a_container_has_no_zombies(start_method: str, tmp_path: Path) -> None:
    done = run_program("inherits_orphans.py", start_method, str(tmp_path), before=AS_PROCESS_1)
    assert done.stdout == "0\n", done.stderr


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Popen has process_group from 3.11 on")
@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_a_process_with_a_reused_number_is_left_alone(start_method: str) -> None:
    done = run_program("meets_reused_number.py", start_method, before=AS_PROCESS_1)
    assert done.stdout == "None\n", done.stderr

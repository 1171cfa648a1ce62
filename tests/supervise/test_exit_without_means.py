"""At its exit a caller waits for its ranks, whatever it has lost since it started them.

Promise: Nothing is left over.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts import run_program


@pytest.mark.parametrize(
    "lacks", ["descriptors", "imports", "files", "time", "descriptors in a loop"]
)
def test_ranks_are_waited_for(start_method: str, lacks: str, tmp_path: Path) -> None:
    if lacks == "files" and os.geteuid() != 0:
        pytest.skip("only root may call chroot(2)")
    done = run_program("exits_without_means.py", start_method, lacks, str(tmp_path))
    assert len(list(tmp_path.glob("done *"))) == 2, done.stderr
    assert "Exception ignored" not in done.stderr

"""Runs torch's own tests of `torch.multiprocessing.spawn` with procession in its place.

The tests are in no wheel.  PROCESSION_TEST_PYTORCH names a checkout of pytorch at the tag of the installed
torch (v2.13.0).  This module executes the file of the tests as if its text were here.  Ranks import the
functions of the tests from this module, and therefore use procession, too.

CPython has no tests for this contract: ``test.test_multiprocessing_spawn`` tests the classes of
multiprocessing (Process, Pool, queues), which procession does not replace.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from replacing import replace

FILE = "test/test_multiprocessing_spawn.py"
CHECKOUT = os.environ.get("PROCESSION_TEST_PYTORCH")
if not CHECKOUT:
    pytest.skip(
        "PROCESSION_TEST_PYTORCH is not set: git clone --depth 1 --branch v2.13.0"
        " https://github.com/pytorch/pytorch",
        allow_module_level=True,
    )

CANNOT_PASS = {
    ("ParallelForkServerPerfTest", "test_forkserver_perf"): (
        "it expects that TORCH_MP_PARALLEL_START=0 is slow: that 4 ranks import for 5 s each, one after the"
        " other; procession's ranks of forkserver start at the same time"
    ),
}
"""The tests that cannot pass, and why; all others must pass."""

LEFT_OUT = [
    ("SpawnTest", "_test_process_exited"),
    ("ForkTest", "_test_nested"),
    ("ParallelForkServerShouldWorkTest", "_test_nested"),
]
"""Tests that torch leaves out, by an underscore.  In SpawnTest, _test_nested allows 10 s for two starts of
ranks that import for 5 s each."""


def select() -> None:
    """Mark the tests that cannot pass; add those that torch leaves out."""
    for (group, name), reason in CANNOT_PASS.items():
        test = getattr(globals()[group], name)
        setattr(globals()[group], name, pytest.mark.xfail(reason=reason)(test))
    for group, name in LEFT_OUT:
        test = getattr(globals()[group], name)
        if name == "_test_nested":
            test = pytest.mark.leaves_things(test)  # it does not join its launch
        setattr(globals()[group], name[1:], test)


@pytest.fixture(scope="session", autouse=True)
def inductor(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give torch's compiler a folder: the set-up of torch's tests makes one, and leaves it."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path_factory.mktemp("inductor"))


replace()
# torch's assertLogs sees what reaches torch's logger
logging.getLogger("procession").parent = logging.getLogger("torch")
exec(compile(Path(CHECKOUT, FILE).read_text(), Path(CHECKOUT, FILE), "exec"))
select()

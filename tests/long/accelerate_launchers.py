"""Runs accelerate's own tests of its launchers with procession in the place of torch.multiprocessing.

Its package has them.  ``debug_launcher`` calls torch's start_processes, ``notebook_launcher`` does so through
torch's elastic agent; both fork.  Two tests do not run here:

test_fault_tolerant       hangs now and then: a rank that finds the queue empty returns, and the other one
                          waits for it in init_process_group
test_problematic_imports  needs bitsandbytes
"""

from __future__ import annotations

import os
from types import ModuleType

import pytest
from replacing import replace

os.environ.setdefault("ACCELERATE_NUM_PROCESSES", "2")
replace()

from accelerate import debug_launcher  # noqa: E402
from accelerate.test_utils.scripts import (  # noqa: E402
    test_notebook,
    test_ops,
    test_script,
    test_sync,
)

NOTEBOOK = [
    "test_can_initialize",
    "test_clean_cuda_fork",
    "test_static_rdzv_backend",
    "test_c10d_rdzv_backend",
    "test_monitoring",
]

pytestmark = [
    pytest.mark.leaves_things,  # torch's elastic agent keeps its folders of logs
    pytest.mark.filterwarnings("default"),
]


@pytest.mark.parametrize("name", NOTEBOOK)
def test_notebook_launcher(name: str) -> None:
    getattr(test_notebook, name)()


@pytest.mark.parametrize("script", [test_ops, test_script, test_sync], ids=lambda one: one.__name__)
def test_debug_launcher(script: ModuleType) -> None:
    debug_launcher(script.main)

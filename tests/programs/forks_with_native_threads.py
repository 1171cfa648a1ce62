"""Forks a rank where numpy's OpenBLAS and an OpenMP runtime have threads: only the latter's are named."""

from __future__ import annotations

import ctypes
import glob
import os
import warnings

import numpy  # noqa: F401, ICN001  # starts the threads of OpenBLAS
import sklearn

from procession import UnsafeForkWarning, run
from procession._launch.foreign_threads import find_foreign_threads


def start_openmp() -> None:
    """Have the OpenMP runtime of scikit-learn's wheel start two threads."""
    folder = os.path.dirname(sklearn.__file__)
    [library] = glob.glob(os.path.join(folder, "../scikit_learn.libs/libgomp*"))
    function = ctypes.CDLL(None).sched_yield
    ctypes.CDLL(library).GOMP_parallel(function, None, 3, 0)


if __name__ == "__main__":
    assert find_foreign_threads() == []  # OpenBLAS prepares its threads for a fork
    start_openmp()
    assert len(find_foreign_threads()) == 2
    warnings.simplefilter("error", UnsafeForkWarning)
    try:
        run(abs, nprocs=1, start_method="fork")
    except UnsafeForkWarning as warning:
        text = str(warning)
    assert "threads that Python did not start run in this process (python" in text, text
    warnings.simplefilter("ignore", UnsafeForkWarning)
    print(run(abs, nprocs=1, start_method="fork"))

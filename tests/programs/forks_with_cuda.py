"""Forks where a stand-in for torch says that CUDA is initialised, and prints "refused" if that is refused."""

from __future__ import annotations

import sys
import types

from procession import UnsafeForkError, start_processes

if __name__ == "__main__":
    sys.modules["torch.cuda"] = module = types.ModuleType("torch.cuda")
    vars(module)["is_initialized"] = lambda: True
    try:
        start_processes(print, nprocs=1, start_method="fork")
    except UnsafeForkError:
        print("refused")

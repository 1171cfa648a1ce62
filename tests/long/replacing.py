"""Puts procession in the place of torch.multiprocessing's launching calls."""

from __future__ import annotations

import sys

import torch.multiprocessing

import procession

REPLACED = (
    *("ProcessContext", "ProcessException", "ProcessExitedException", "ProcessRaisedException"),
    *("spawn", "start_processes"),
)


def replace() -> None:
    """Make torch.multiprocessing, and its module of the same calls, offer what procession offers."""
    for module in (torch.multiprocessing, sys.modules["torch.multiprocessing.spawn"]):
        for name in REPLACED:
            if hasattr(module, name):
                setattr(module, name, getattr(procession, name))

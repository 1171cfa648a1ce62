"""Collects the stacks of ranks, and groups ranks with equal stacks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from procession._linux.procstat import state_of
from procession._python.clock import monotonic
from procession._python.unpatched import sleep
from procession._rank import life, stacks
from procession._rank.wire import shorten
from procession._supervise.rank_state import RankState
from procession._supervise.stack_request import PATIENCE
from procession.protocol import Process

_LOOK = 0.002  # seconds between looks: a rank writes its stacks to a file, which raises no event
_ADDRESS = re.compile(r"0x[0-9a-f]+")
_OWN = re.compile(
    rf'  File "{re.escape(life.__file__)}", line \d+ in _?live\n(  File .*\n)*'
    rf'|  File "{re.escape(stacks.__file__)}", line \d+ in _answer\n'
)
"""Frames that a dump leaves out: those of this library that lead to fn, or that write the dump."""


def collect_stacks(rank_states: Sequence[RankState]) -> dict[int, str]:
    """Return the Python stacks of ranks, by rank; a rank without stacks has a text that says why."""
    until = monotonic() + PATIENCE
    asked = [one for one in rank_states if _ask(one)]
    answers: dict[int, str] = {}
    while len(answers) < len(asked) and monotonic() < until:
        sleep(_LOOK)
        for one in asked:
            if one.rank not in answers and (text := _take(one)):
                answers[one.rank] = shorten(_OWN.sub("", text)).decode()
    return {one.rank: answers.get(one.rank) or _excuse(one, one in asked) for one in rank_states}


def group_stacks(stacks: Mapping[int, str]) -> list[str]:
    """Return one text for each distinct stack, headed by the ranks that have it."""
    places: dict[str, list[int]] = {}
    for index, text in sorted(stacks.items()):
        places.setdefault(_ADDRESS.sub("0x...", text), []).append(index)
    return [
        f"rank {', '.join(map(str, ranks))}:\n{text.rstrip()}" for text, ranks in places.items()
    ]


def state_of_process(process: Process) -> str:
    """Return the state letter of a rank's process, ``?`` if it is on another host."""
    return "?" if getattr(process, "host", None) else state_of(process.pid)


def _ask(rank_state: RankState) -> bool:
    ask = getattr(rank_state.process, "ask_stacks", None)
    try:
        return ask is not None and not rank_state.ended and bool(ask())
    except (OSError, ValueError):  # most likely no descriptor is left
        return False


def _take(rank_state: RankState) -> str:
    take = getattr(rank_state.process, "take_stacks", None)
    try:
        text = take() if take is not None else ""
        return str(text or "")
    except Exception as error:  # the rank may have written anything to the file
        return f"(its stacks cannot be read: {type(error).__name__}: {error})"


def _excuse(rank_state: RankState, was_asked: bool) -> str:
    if rank_state.ended or not rank_state.process.is_alive():
        return "(the rank has ended)"
    if not hasattr(rank_state.process, "ask_stacks"):
        return "(this start method cannot show stacks)"
    state = f"the state of its process is {state_of_process(rank_state.process)}"
    if was_asked:
        return f"(the rank did not answer within {PATIENCE:g} s: {state})"
    return f"(the rank does not answer the signal that asks for stacks, or not yet: {state})"

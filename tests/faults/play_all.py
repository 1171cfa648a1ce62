"""Plays all fault cases without pytest; `surroundings.py` starts it in hostile surroundings.

Usage: play_all.py RESULTS FOLDER START_METHOD [EXCLUDED...]
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path

from procession import get_backend
from procession.testing.cases import CASES
from procession.testing.outcomes import GRACE, assert_gone, assert_told, launch
from procession.testing.subject import Subject
from procession.testing.times import patience


def play_one(name: str, start_method: str, folder: Path) -> str:
    """Play a case; return ``ok``, or what went wrong."""
    case = CASES[name]
    folder.mkdir(mode=0o777)
    options = {"fork_check": "off"} if start_method == "fork" else {}
    subject = Subject(get_backend(start_method), options, folder)
    begun = time.monotonic()
    try:
        assert_told(case, launch(case, name, subject))
        took = time.monotonic() - begun
        assert took < patience(case.seconds + GRACE * case.stubborn), f"took {took:.1f} s"
        assert_gone(subject.stage.noted())
    except BaseException:
        return traceback.format_exc()
    return "ok"


def is_for_us(name: str, start_method: str) -> bool:
    """Whether this user and this start method can play a case."""
    capabilities = get_backend(start_method).capabilities
    needs = CASES[name].needs
    if "root" in needs and os.getuid() != 0:
        return False
    return all(getattr(capabilities, need) for need in needs if need != "root")


def main(results: str, folder: str, start_method: str, *excluded: str) -> None:
    """Play all cases, and write what came of each."""
    outcomes = {
        name: play_one(name, start_method, Path(folder, name.replace(" ", "-")))
        for name in CASES
        if name not in excluded and is_for_us(name, start_method)
    }
    draft = Path(f"{results}.new")
    draft.write_text(json.dumps(outcomes))
    draft.rename(results)


if __name__ == "__main__":
    main(*sys.argv[1:])

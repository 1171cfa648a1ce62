"""The kit, applied to each of the wrong backends; kit_tests.py runs this file and reads its output."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from wrong import WRONG

from procession.protocol import Backend
from procession.testing import BackendConformance
from procession.testing.scratch import is_gone
from procession.testing.subject import Subject


def make(kind: Any) -> type:
    class TestWrong(BackendConformance):
        @pytest.fixture
        def backend(self) -> Backend:
            made: Backend = kind()
            return made

        @pytest.fixture
        def launch_options(self) -> Mapping[str, Any]:
            return {"fork_check": "off"} if "fork_check" in kind.options else {}

        @pytest.fixture(autouse=True)
        def end_what_is_left(self, subject: Subject) -> Iterator[None]:
            yield
            for pid in subject.stage.noted():
                if not is_gone(pid):
                    os.kill(pid, signal.SIGKILL)

    TestWrong.__name__ = TestWrong.__qualname__ = f"Test{kind.__name__}"
    return TestWrong


globals().update({f"Test{name}": make(kind) for name, kind in WRONG.items()})

"""An author's test file: it certifies `spawn` twice, replaces one test of the kit and skips another.

A test copies this file to a name that pytest collects.
"""

from __future__ import annotations

import pytest

from procession import Backend, get_backend
from procession.testing import BackendConformance
from procession.testing.subject import Subject


class TestMine(BackendConformance):
    @pytest.fixture(params=["ape", "bee"])
    def backend(self) -> Backend:
        return get_backend("spawn")

    def test_join_returns_in_time(self, subject: Subject) -> None:
        pass

    @pytest.mark.skip(reason="an author skips it, and so is not certified: this is what is tested")
    def test_it_is_available(self, subject: Subject) -> None:
        pass

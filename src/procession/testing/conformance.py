"""The class that certifies a backend: subclass it, override one fixture, run pytest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from procession.protocol import Backend
from procession.testing.contract import Contract
from procession.testing.costs import Costs
from procession.testing.leftovers import Leftovers
from procession.testing.listing import Listing
from procession.testing.outcomes import Outcomes
from procession.testing.protocol import ProtocolTests
from procession.testing.subject import Subject


class BackendConformance(Listing, Costs, Leftovers, Outcomes, Contract, ProtocolTests):
    """The tests that every backend must pass; pytest runs a subclass whose name begins with ``Test``.

    Tests of a capability that the backend does not claim are skipped, and the report names it.  The tests
    of the protocol run first; if one of them fails, the other tests are skipped.
    """

    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Known failures: the name of a test, with or without its parameters, and the reason.  An unexpected
    pass fails."""

    ranks_are_here: ClassVar[bool] = False
    """Whether the ranks of a remote backend run on this machine and see its processes."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for name in cls.expected_failures:
            if not hasattr(cls, name.partition("[")[0]):
                raise TypeError(f"{cls.__qualname__}.expected_failures: there is no test {name!r}")

    @pytest.fixture
    def backend(self) -> Backend:
        """Return the backend to certify: override this."""
        raise NotImplementedError("override the fixture `backend`")

    @pytest.fixture
    def launch_options(self) -> Mapping[str, Any]:
        """Return the options of every launch; override this if the backend needs any."""
        return {}

    @pytest.fixture
    def subject(
        self, backend: Backend, launch_options: Mapping[str, Any], tmp_path: Path
    ) -> Subject:
        """Return the backend, as the tests use it."""
        return Subject(backend, launch_options, tmp_path, here=self.ranks_are_here)

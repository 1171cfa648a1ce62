"""Certifies an installed backend: ``pytest --pyargs procession.testing --procession-backend NAME``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from procession import get_backend
from procession.protocol import Backend
from procession.testing import ranks
from procession.testing.conformance import BackendConformance
from procession.testing.remote import NOT_RUN, RemoteConformance
from procession.testing.subject import Subject


class FromCommandLine:
    """Provides the backend that the command line names, and its options."""

    is_for_remote = False

    @classmethod
    def is_for(cls, config: pytest.Config) -> bool:
        """Return whether this class, rather than the other one, tests the backend."""
        try:
            backend = get_backend(config.getoption("--procession-backend") or "")
            remote = backend.capabilities.remote
        except Exception:  # a test reports it
            remote = False
        return remote == cls.is_for_remote

    @pytest.fixture
    def backend(self, request: pytest.FixtureRequest) -> Backend:
        """Return the backend of ``--procession-backend``."""
        name = request.config.getoption("--procession-backend")
        if not name:
            pytest.skip("give the name of a start method: --procession-backend NAME")
        return get_backend(name)

    @pytest.fixture
    def launch_options(self, request: pytest.FixtureRequest) -> Mapping[str, Any]:
        """Return the options of ``--procession-option``."""
        given: Any = request.config.getoption("--procession-option")
        return dict(given)


class TestBackend(FromCommandLine, BackendConformance):
    """Tests a backend whose ranks run on this machine."""


class TestRemoteBackend(FromCommandLine, RemoteConformance):
    """Tests a remote backend; the remote part runs only if its ranks are on this machine."""

    is_for_remote = True

    @pytest.fixture
    def subject(
        self,
        request: pytest.FixtureRequest,
        backend: Backend,
        launch_options: Mapping[str, Any],
        tmp_path: Path,
    ) -> Subject:
        """Return the backend, as the tests use it."""
        known = request.config.stash
        if _HERE not in known:
            known[_HERE] = are_here(Subject(backend, launch_options, tmp_path))
        if not known[_HERE] and not hasattr(BackendConformance, request.function.__name__):
            pytest.skip(f"{NOT_RUN}: the ranks are on other machines")
        return Subject(backend, launch_options, tmp_path, here=known[_HERE])


_HERE: pytest.StashKey[bool] = pytest.StashKey()


def are_here(subject: Subject) -> bool:
    """Return whether the ranks run on this machine; True if none starts, which a test then reports."""
    try:
        found = subject.run(ranks.see_namespace)
    except Exception:
        return True
    return set(found) == {ranks.find_namespace()}

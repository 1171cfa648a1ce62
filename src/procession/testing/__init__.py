"""The conformance kit: tests that any backend must pass, for its author to run.

The classes are imported when they are first used: ranks import what lies beside them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from procession.testing.conformance import BackendConformance
    from procession.testing.remote import RemoteConformance

__all__ = ["BackendConformance", "RemoteConformance"]


def __getattr__(name: str) -> object:
    if name == "BackendConformance":
        from procession.testing.conformance import BackendConformance

        return BackendConformance
    if name == "RemoteConformance":
        from procession.testing.remote import RemoteConformance

        return RemoteConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

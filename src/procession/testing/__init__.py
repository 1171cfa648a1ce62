"""The conformance kit: tests that every backend must pass, for its author to run.

The classes are imported on first use, because ranks import other modules of this package.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from procession.testing.conformance import BackendConformance
    from procession.testing.remote import RemoteConformance
    from procession.testing.times import patience

__all__ = ["BackendConformance", "RemoteConformance", "patience"]


def __getattr__(name: str) -> object:
    if name == "BackendConformance":
        from procession.testing.conformance import BackendConformance

        return BackendConformance
    if name == "RemoteConformance":
        from procession.testing.remote import RemoteConformance

        return RemoteConformance
    if name == "patience":
        from procession.testing.times import patience

        return patience
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

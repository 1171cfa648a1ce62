"""The conformance kit: tests that any backend must pass, for its author to run.

`BackendConformance` is imported when it is first used: ranks import what lies beside it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from procession.testing.conformance import BackendConformance

__all__ = ["BackendConformance"]


def __getattr__(name: str) -> object:
    if name != "BackendConformance":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from procession.testing.conformance import BackendConformance

    return BackendConformance

"""The start method ``xla`` for procession: one rank per accelerator, or group of them, for JAX.

run(train, nprocs=None, start_method="xla", options={"distributed": True})
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from procession_xla.member import initialize
    from procession_xla.plan import plan_environments

__all__ = ["initialize", "plan_environments"]


def __getattr__(name: str) -> object:
    """Import a public name on first use: ranks need one of them, launchers the other."""
    if name == "initialize":
        from procession_xla.member import initialize

        return initialize
    if name == "plan_environments":
        from procession_xla.plan import plan_environments

        return plan_environments
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

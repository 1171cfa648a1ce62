"""Tells code in a rank where it is."""

from __future__ import annotations

from typing import Any, NamedTuple

from procession._python.imported import get_if_imported


class RankInfo(NamedTuple):
    """A rank's place in its launch; ``launch_id`` is the same in all its ranks and in no other."""

    rank: int
    nprocs: int
    local_rank: int
    local_nprocs: int
    start_method: str
    launch_id: str


class RankPlace(NamedTuple):
    """Where a rank is to run, as its caller knows it beforehand.

    ``local_rank`` and ``local_nprocs`` count the ranks of one host; they are None, as ``host`` is, where an
    engine has yet to choose the hosts.
    """

    rank: int
    nprocs: int
    local_rank: int | None
    local_nprocs: int | None
    host: str | None

    @classmethod
    def plan(cls, nprocs: int, *, remote: bool) -> list[RankPlace]:
        """Return the places of all ranks of a launch."""
        if remote:
            return [cls(rank, nprocs, None, None, None) for rank in range(nprocs)]
        import _socket

        host = _socket.gethostname()
        return [cls(rank, nprocs, rank, nprocs, host) for rank in range(nprocs)]


def rank_info() -> RankInfo | None:
    """Return the place of the rank that this process is; None in a process that is no rank."""
    current = get_if_imported("procession._rank.life", "current")
    if current is None:
        return None
    rank, spec = current
    nprocs = spec["nprocs"]
    local_rank, local_nprocs = spec["place"] or (rank, nprocs)
    method, launch_id = spec["start_method"], spec["launch_id"]
    return RankInfo(rank, nprocs, local_rank, local_nprocs, method, launch_id)


def set_rank_info(info: RankInfo) -> None:
    """Have `rank_info` return this: for a backend whose ranks nothing of procession has started.

    Call it in the rank, before fn.  ``launch_id`` is up to the backend: 16 hex digits, the same in all ranks
    of a launch.
    """
    from procession._rank import life

    spec: Any = {
        "nprocs": info.nprocs,
        "place": (info.local_rank, info.local_nprocs),
        "start_method": info.start_method,
        "launch_id": info.launch_id,
    }
    life.current = info.rank, spec

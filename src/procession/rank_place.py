"""The place of a rank in its launch: `rank_info` in the rank, `RankPlace` in the caller."""

from __future__ import annotations

from typing import Any, NamedTuple

from procession._python.imported import get_if_imported


class RankInfo(NamedTuple):
    """The place of this rank in its launch; ``launch_id`` is the same in all its ranks and no others."""

    rank: int
    nprocs: int
    local_rank: int
    local_nprocs: int
    start_method: str
    launch_id: str


class RankPlace(NamedTuple):
    """Where a rank will run, as the caller knows before the start.

    ``local_rank`` and ``local_nprocs`` count the ranks of one host.  These two and ``host`` are None if an
    engine will choose the hosts.
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
    """Return the place of this rank; None in a process that is not a rank."""
    current = get_if_imported("procession._rank.life", "current")
    if current is None:
        return None
    rank, spec = current
    nprocs = spec["nprocs"]
    local_rank, local_nprocs = spec["place"] or (rank, nprocs)
    method, launch_id = spec["start_method"], spec["launch_id"]
    return RankInfo(rank, nprocs, local_rank, local_nprocs, method, launch_id)


def set_rank_info(info: RankInfo) -> None:
    """Set what `rank_info` returns, for a backend that starts ranks without code of procession.

    Call it in the rank, before fn.  The backend chooses ``launch_id``: 16 hex digits, the same in all ranks
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

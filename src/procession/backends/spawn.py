"""The spawn start method: each rank is a fresh interpreter that imports only what it needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from procession import guard
from procession.channel import SocketChannel
from procession.identity import name_process
from procession.interpreter import start_interpreter
from procession.orders import tracker_fd, write_fresh_orders
from procession.platform import missing_mechanism, tell_availability, tell_capabilities
from procession.process import RankProcess
from procession.protocol import PROTOCOL_VERSION, Availability, Capabilities, Launch, Started
from procession.starting import Handles, begin, hand_over, start_each

if TYPE_CHECKING:
    from procession.tree import Tree


class SpawnBackend:
    """Starts ranks as new interpreters; fn and args are pickled once for all of them."""

    name: str = "spawn"
    protocol_version: int = PROTOCOL_VERSION
    options: frozenset[str] = frozenset()

    @property
    def capabilities(self) -> Capabilities:
        """What holds for it on this platform."""
        return tell_capabilities(self.name)

    def availability(self) -> Availability:
        """Tell whether this platform can start interpreters, which every one can."""
        return tell_availability(self.name)

    def start(self, launch: Launch) -> Started:
        """Start one interpreter a rank."""
        if missing_mechanism():
            from procession.backends.portable import start

            return start(launch, "spawn")
        from procession.payload import pickled_call
        from procession.tree import planted

        orders = write_fresh_orders(launch, "spawn", forked=False)
        own = dict(os.environ)
        with pickled_call(launch) as pickled, planted(launch, orders) as tree:
            orders["main"], orders["sources"] = pickled.main, pickled.sources
            orders["fds"], orders["tracker"] = pickled.fds, tracker_fd()
            shared = [fd for fd in (*pickled.fds, orders["tracker"]) if fd >= 0]
            payload = pickled.file
            payload.write_orders(orders)
            started = start_each(
                launch, lambda rank: _start_rank(launch, rank, own, payload.fd, shared, tree)
            )
            return tree.attach(hand_over(payload, started))


def _start_rank(
    launch: Launch,
    rank: int,
    environment: dict[str, str],
    payload: int,
    shared: list[int],
    tree: Tree,
) -> Handles:
    channel, theirs = SocketChannel.open()
    death_pipe = guard.death_pipe()
    try:
        popen = start_interpreter(
            "procession.fresh",
            "main",
            (rank, theirs, payload, death_pipe),
            pass_fds=(theirs, payload, death_pipe, *shared),
            env=_merge(environment, launch.environments[rank]),
            new_session=False,
        )
        tree.adopt(popen.pid)  # from outside: the rank need not import for it
        popen.returncode = 0  # reaping is the RankProcess's business: Popen is to leave it alone
        name = name_process("spawn", rank)
        process = RankProcess.of_child(popen.pid, name=name, daemon=launch.daemon, mark=tree.mark)
        begin(channel)
    except BaseException:
        channel.close()
        raise
    finally:
        os.close(theirs)
    return process, process.sentinel, channel


def _merge(environment: dict[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """Return the whole environment of a rank."""
    merged: dict[str, str | None] = {**environment, **changes}
    return {name: value for name, value in merged.items() if value is not None}

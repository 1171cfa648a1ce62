"""The fork start method: each rank is a copy of the caller, made in the instant of the call."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from procession import forked, guard, interrupts, rank
from procession.channel import SocketChannel
from procession.forkcheck import check_fork
from procession.identity import name_process
from procession.orders import write_orders
from procession.platform import missing_mechanism, tell_availability, tell_capabilities
from procession.process import RankProcess
from procession.protocol import PROTOCOL_VERSION, Availability, Capabilities, Launch, Started
from procession.report import Reporter, describe, write_error
from procession.starting import Handles, begin, start_each

if TYPE_CHECKING:
    from procession.tree import Tree


class ForkBackend:
    """Starts ranks by `os.fork`: nothing is pickled, nothing imported, and nothing needs a main module.

    What a fork cannot copy is the caller's threads: a lock that one of them holds stays held.  So the
    caller is looked at first (`procession.forkcheck`).
    """

    name: str = "fork"
    protocol_version: int = PROTOCOL_VERSION
    options: frozenset[str] = frozenset({"fork_check"})

    @property
    def capabilities(self) -> Capabilities:
        """What holds for it on this platform."""
        return tell_capabilities(self.name)

    def availability(self) -> Availability:
        """Tell whether this platform can fork."""
        return tell_availability(self.name)

    def start(self, launch: Launch) -> Started:
        """Fork one process a rank, if this process can be forked.

        Raises:
            UnsafeForkError: the option ``fork_check`` is ``error`` (its default), and CUDA or XLA is
                initialised in this process.
        """
        check_fork(launch.options.get("fork_check", "error"))
        if missing_mechanism():
            from procession.backends.portable import start

            return start(launch, "fork")
        from procession.tree import planted

        orders = write_orders(launch, "fork", forked=True)
        death_pipe = guard.death_pipe()
        _flush_streams()

        with planted(launch, orders) as tree:
            return tree.attach(
                start_each(launch, lambda index: _fork(launch, orders, index, death_pipe, tree))
            )


def _fork(launch: Launch, orders: rank.Orders, index: int, death_pipe: int, tree: Tree) -> Handles:
    caller = os.getpid()
    channel, theirs = SocketChannel.open()
    try:
        pid = os.fork()
        if pid == 0:
            _become_rank(launch, orders, index, theirs, death_pipe, tree)
        name = name_process("fork", index)
        process = RankProcess.of_child(pid, name=name, daemon=launch.daemon, mark=tree.mark)
        begin(channel)
    except BaseException:
        if os.getpid() != caller:  # raised by a signal handler: the frames below are the caller's
            os._exit(1)
        channel.close()
        raise
    finally:
        os.close(theirs)
    return process, process.sentinel, channel


def _become_rank(
    launch: Launch, orders: rank.Orders, index: int, channel: int, death_pipe: int, tree: Tree
) -> NoReturn:
    """Live a rank's life in a process just forked, and never return to the caller's frames."""
    status, succeeded = 1, False
    try:
        tree.adopt(0)
        interrupts.restore_in_child()
        forked.cut_off()
        rank.change_environment(launch.environments[index])
        if rank.may_begin(channel):
            status, succeeded = rank.live(
                orders, index, Reporter(channel), death_pipe, lambda: (launch.fn, launch.args)
            )
    except BaseException as error:  # of ours: a rank's own are in its report
        write_error(describe(error))
    finally:
        try:
            rank.leave(status, succeeded)
        finally:  # a signal handler may raise before `leave` is on its guard
            os._exit(status or 1)


def _flush_streams() -> None:
    """Flush what is buffered, or every rank would write it again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError):  # None, or closed
            pass

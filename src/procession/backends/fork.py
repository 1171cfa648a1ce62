"""The fork start method: each rank is a copy of the caller, made in the instant of the call."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TextIO

from procession._launch.death_pipes import choose, death_pipes
from procession._launch.exit_barrier import exit_barrier, inherited
from procession._launch.fork_check import check_fork
from procession._launch.forking import Forked, Live, fork_each
from procession._launch.platform import get_availability, get_capabilities, missing_mechanism
from procession._launch.spec import find_entry_module, make_spec
from procession._launch.starting import abort_start, note_start
from procession._python import defer_signals
from procession._rank import life
from procession._rank.after_fork import cut_off, import_for_ranks, open_no_input
from procession._rank.fork_signals import Inheritance
from procession._rank.identity import name_process
from procession._rank.report import Reporter
from procession._supervise.channel import SocketChannel
from procession._supervise.process import RankProcess
from procession.protocol import PROTOCOL_VERSION, Availability, Capabilities, Launch, Started

if TYPE_CHECKING:
    from procession._cleanup.tree import Tree
    from procession._rank.spec import RankSpec


class ForkBackend:
    """Starts ranks by `os.fork`: nothing is pickled, nothing imported, and nothing needs a main module.

    What a fork cannot copy is the caller's threads: a lock that one of them holds stays held.  So the
    caller is looked at first (`procession._launch.fork_check`).
    """

    name: str = "fork"
    protocol_version: int = PROTOCOL_VERSION
    options: frozenset[str] = frozenset({"fork_check"})

    @property
    def capabilities(self) -> Capabilities:
        """What holds for it on this platform."""
        return get_capabilities(self.name)

    def availability(self) -> Availability:
        """Tell whether this platform can fork."""
        return get_availability(self.name)

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
        from procession._cleanup.tree import planted

        spec = make_spec(launch, "fork", forked=True)
        import_for_ranks(find_entry_module(launch))
        _flush_streams()
        with (
            exit_barrier(launch) as ends,
            death_pipes(launch.nprocs) as pipes,
            planted(spec["launch_id"], keep_daemons=launch.keep_daemons) as tree,
        ):
            spec["exit_barrier"] = ends
            estate = _ForkContext(launch, spec, tree, pipes, open_no_input())
            with inherited(ends):
                started = _fork_ranks(launch, estate.live, tree.mark)
            return tree.attach(started)


class _ForkContext(NamedTuple):
    """What all ranks of a launch inherit from their caller."""

    launch: Launch
    spec: RankSpec
    tree: Tree
    death_pipes: list[int]
    no_input: TextIO | None

    def live(self, index: int, channel: int) -> tuple[int, bool]:
        """Live a rank's life in a process just forked."""
        self.tree.adopt(0)
        cut_off(self.no_input)
        life.change_environment(self.launch.environments[index])
        if not life.wait_for_go(channel):
            return 1, False
        reporter = Reporter(channel)

        def get_call() -> tuple[Callable[..., object], tuple[object, ...]]:
            life.enter(self.spec, index)
            return self.launch.fn, self.launch.args

        death_pipe = choose(self.death_pipes, index)
        return life.live(self.spec, index, reporter, death_pipe, get_call)


def _fork_ranks(launch: Launch, live: Live, mark: int) -> Started:
    """Fork all ranks, or none."""
    forked: list[Forked] = []
    try:
        with defer_signals.defer_sigint(until_owned=True) as let_interrupts_through:
            fork_each(
                launch.nprocs,
                live,
                forked,
                inheritance=Inheritance(keep_handlers=launch.signals.keep_handlers),
                begin=let_interrupts_through,
            )
            return _gather(launch, forked, mark)
    except BaseException as error:
        note_start(error, len(forked), launch.nprocs)
        abort_start(_gather(launch, forked, mark))
        raise


def _gather(launch: Launch, forked: list[Forked], mark: int) -> Started:
    processes = [
        RankProcess(
            pid,
            pidfd,
            name=name_process("fork", launch.identity, index),
            daemon=launch.daemon,
            mark=mark,
        )
        for index, (pid, pidfd, _) in enumerate(forked)
    ]
    channels = [SocketChannel(one.channel) for one in forked]
    return Started(processes, [process.sentinel for process in processes], channels)


def _flush_streams() -> None:
    """Flush what is buffered, or every rank would write it again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError):  # None, or closed
            pass

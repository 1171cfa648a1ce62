"""The fork start method: each rank is a copy of the caller, made at the moment of the call."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TextIO

from procession._launch.death_pipes import choose, death_pipes
from procession._launch.exit_barrier import exit_barrier, inheritable
from procession._launch.fork_check import check_fork
from procession._launch.forking import Child, Live, fork_each
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
    """Starts ranks with `os.fork`: ranks unpickle nothing, import nothing and need no main module.

    A fork does not copy the caller's other threads, and a lock that one of them holds stays held in every
    rank.  So the backend checks the caller first (`procession._launch.fork_check`).
    """

    name: str = "fork"
    protocol_version: int = PROTOCOL_VERSION
    options: frozenset[str] = frozenset({"fork_check"})

    @property
    def capabilities(self) -> Capabilities:
        """What this backend can do on this platform."""
        return get_capabilities(self.name)

    def availability(self) -> Availability:
        """Say whether this platform can fork."""
        return get_availability(self.name)

    def start(self, launch: Launch) -> Started:
        """Fork one process per rank, if this process can be forked safely.

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
            context = _ForkContext(launch, spec, tree, pipes, open_no_input())
            with inheritable(ends):
                started = _fork_ranks(launch, context.live, tree.mark)
            return tree.attach(started)


class _ForkContext(NamedTuple):
    """What all ranks of a launch inherit from their caller."""

    launch: Launch
    spec: RankSpec
    tree: Tree
    death_pipes: list[int]
    no_input: TextIO | None

    def live(self, index: int, channel: int) -> tuple[int, bool]:
        """Run a rank in a process just forked."""
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
    """Fork all ranks; if one cannot be forked, end the others."""
    children: list[Child] = []
    try:
        with defer_signals.defer_sigint(until_owned=True) as let_interrupts_through:
            fork_each(
                launch.nprocs,
                live,
                children,
                inheritance=Inheritance(keep_handlers=launch.signals.keep_handlers),
                begin=let_interrupts_through,
            )
            return _make_handles(launch, children, mark)
    except BaseException as error:
        note_start(error, len(children), launch.nprocs)
        abort_start(_make_handles(launch, children, mark))
        raise


def _make_handles(launch: Launch, children: list[Child], mark: int) -> Started:
    processes = [
        RankProcess(
            pid,
            pidfd,
            name=name_process("fork", launch.identity, index),
            daemon=launch.daemon,
            mark=mark,
        )
        for index, (pid, pidfd, _) in enumerate(children)
    ]
    channels = [SocketChannel(child.channel) for child in children]
    return Started(processes, [process.sentinel for process in processes], channels)


def _flush_streams() -> None:
    """Flush buffered output; otherwise every rank would write it again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError):  # None, or closed
            pass

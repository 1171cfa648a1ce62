"""Starts each rank as a command: for `spawn`, and for backends that wrap the command in another one.

A rank is then a new interpreter, with all that `spawn` promises: fn and args are pickled once for all ranks,
the rank dies with its caller (parent-death signal), reports through a channel, and the processes that it
starts end with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from procession._cleanup import marks
from procession._launch.death_pipes import death_pipes
from procession._launch.environment import merge
from procession._launch.exit_barrier import exit_barrier
from procession._launch.platform import check_interpreter, missing_mechanism
from procession._launch.spec import make_bootstrap_spec, tracker_fd
from procession._launch.starting import Handles, begin, hand_over, start_each
from procession._linux import memory
from procession._python import unpatched
from procession._python.interpreter import compose_command, interpreter_flags
from procession._rank.identity import name_process
from procession._supervise.channel import SocketChannel
from procession._supervise.process import RankProcess
from procession.protocol import Availability, Capabilities, Launch, Started

if TYPE_CHECKING:
    from subprocess import Popen

    from procession._cleanup.tree import Tree
    from procession._launch.environment import Changes
    from procession._rank.spec import BootstrapSpec

__all__ = ["CAPABILITIES", "Command", "availability", "start_commands"]

CAPABILITIES = Capabilities(descendants=True, stacks=True, context="spawn")
"""What start methods can do whose ranks are started as commands."""


class Command(NamedTuple):
    """The command of one rank: start ``argv`` with exactly the environment ``env`` and with ``pass_fds``.

    A backend may start it under other commands, if these inherit descriptors, pass them on, and end as the
    rank ends.  The backend chooses the standard input; a rank of `spawn` reads the null device.
    """

    rank: int
    argv: list[str]
    env: dict[str, str]
    pass_fds: tuple[int, ...]


def availability() -> Availability:
    """Say whether this platform can run ranks as commands."""
    missing = missing_mechanism()
    if missing:
        return Availability(False, missing, "use 'spawn'")
    return check_interpreter(needed=True)


def start_commands(launch: Launch, start: Callable[[Command], Popen[Any]]) -> Started:
    """Start one command per rank; if one fails to start, end the others.

    Args:
        launch: the launch to start.
        start: starts one command and returns its `subprocess.Popen`; no other code may wait for it.

    Returns:
        What a backend's ``start`` returns.

    Raises:
        Exception: what pickling or ``start`` raised; no rank is left running.
    """
    from procession._cleanup.tree import planted
    from procession._launch.payload import pickled_call

    spec = make_bootstrap_spec(launch, "spawn", forked=False)
    own = dict(os.environ)
    with (
        pickled_call(launch) as pickled,
        exit_barrier(launch) as ends,
        planted(spec["launch_id"], keep_daemons=launch.keep_daemons) as tree,
    ):
        pickled.describe_in(spec)
        spec["fds"], spec["tracker"] = pickled.fds, tracker_fd()
        spec["exit_barrier"] = ends
        spec["mark"] = 0 if marks.can_mark_children() else tree.mark
        shared = [fd for fd in (*pickled.fds, *ends, spec["tracker"]) if fd >= 0]
        pickled.file.write_spec(spec)
        ranks = _Ranks(
            start,
            own,
            launch.daemon,
            launch.identity,
            [pickled.file.fd],
            shared,
            tree,
            interpreter_flags(),
        )

        def start_one(rank: int) -> Handles:
            return ranks.start_one(rank, launch.environments[rank])

        return tree.attach(hand_over(pickled.file, start_each(launch, start_one)))


def start_held(
    rank: int,
    changes: Changes,
    spec: BootstrapSpec,
    payload: int,
    start: Callable[[Command], Popen[Any]],
    *,
    keep_daemons: bool,
    flags: Sequence[str],
) -> Started:
    """Start one rank of a launch of another process; this process ends what the rank leaves behind.

    Args:
        rank: the rank.
        changes: the rank's changes to the environment of this process.
        spec: the rank's spec.
        payload: the descriptor of the launch's payload, which is complete and holds no spec.
        start: as in `start_commands`.
        keep_daemons: as in `procession.Launch`.
        flags: the command-line options of the caller's interpreter, which may differ from this one's.
    """
    from marshal import dumps

    from procession._cleanup.tree import planted

    spec_file = memory.file_of("procession-spec", dumps(dict(spec)))
    try:
        # one mark per rank: the end of one rank must not end processes of another rank on this host
        with planted(os.urandom(8).hex(), keep_daemons=keep_daemons) as tree:
            files = [payload, spec_file]
            daemon, identity = spec["daemon"], spec["identity"]
            ranks = _Ranks(start, dict(os.environ), daemon, identity, files, [], tree, flags)
            process, sentinel, channel = ranks.start_one(rank, changes)
            if spec["buffers"]:
                begin(channel)
            return tree.attach(Started([process], [sentinel], [channel]))
    finally:
        unpatched.close(spec_file)


class _Ranks(NamedTuple):
    """What all ranks of one launch that this process starts have in common."""

    start: Callable[[Command], Popen[Any]]
    environment: dict[str, str]
    daemon: bool
    identity: Sequence[int]
    files: list[int]
    shared: list[int]
    tree: Tree
    flags: Sequence[str]

    def start_one(self, rank: int, changes: Changes) -> tuple[RankProcess, int, SocketChannel]:
        """Start one rank."""
        channel, theirs = SocketChannel.open()
        try:
            with death_pipes(1) as pipes:
                command = self._compose(rank, changes, (theirs, *pipes))
                popen = self.start(command)
            # marked from outside, which spares the rank an import
            self.tree.adopt_with_children(popen.pid)
            popen.returncode = 0  # so that Popen leaves reaping to the RankProcess
            process = RankProcess.of_child(
                popen.pid,
                name=name_process("spawn", self.identity, rank),
                daemon=self.daemon,
                mark=self.tree.mark,
            )
            process.is_wrapped = popen.args != command.argv
            begin(channel)
        except BaseException:
            channel.close()
            raise
        finally:
            unpatched.close(theirs)
        return process, process.sentinel, channel

    def _compose(self, rank: int, changes: Changes, ends: tuple[int, ...]) -> Command:
        own = (*ends, *self.files)
        argv = compose_command("procession._rank.bootstrap", "main", (rank, *own), self.flags)
        env = merge(self.environment, changes)
        return Command(rank, argv, env, (*own, *self.shared))

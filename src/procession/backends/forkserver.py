"""The forkserver start method: ranks are forks of a clean server that has imported their modules."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from procession._launch.death_pipes import death_pipes
from procession._launch.environment import plain_str
from procession._launch.exit_barrier import exit_barrier
from procession._launch.platform import get_availability, get_capabilities, missing_mechanism
from procession._launch.spec import find_entry_module, find_folder, make_bootstrap_spec, tracker_fd
from procession._launch.starting import hand_over
from procession._linux import fds
from procession._python import unpatched
from procession._python.functions import unwrap
from procession._python.imported import get_if_imported
from procession._rank.fork_signals import read_actions
from procession.protocol import (
    PROTOCOL_VERSION,
    Availability,
    Capabilities,
    Launch,
    Started,
)

if TYPE_CHECKING:
    from procession._cleanup.tree import Tree
    from procession._forkserver.requests import StartMessage
    from procession._linux.credentials import Settings


class ForkserverBackend:
    """Starts ranks as forks of a server that has imported their modules.

    The server imports fn's module, the main module if fn or args need it, and the modules listed in the
    option ``preload`` and in `multiprocessing.set_forkserver_preload`.  If the option ``preload_main`` is
    False, ranks import the first two themselves.  The server stays for the next launch with the same
    configuration.
    """

    name: str = "forkserver"
    protocol_version: int = PROTOCOL_VERSION
    options: frozenset[str] = frozenset({"preload", "preload_main"})

    @property
    def capabilities(self) -> Capabilities:
        """What this backend can do on this platform."""
        return get_capabilities(self.name)

    def availability(self) -> Availability:
        """Say whether this platform can fork."""
        return get_availability(self.name)

    def start(self, launch: Launch) -> Started:
        """Have the server fork one process per rank."""
        preloads_main = _check_preload_main(launch)
        preload = _check_preload(launch, with_own=preloads_main)
        if missing_mechanism():
            from procession.backends.portable import start

            return start(launch, "forkserver")
        from procession._cleanup.tree import planted
        from procession._forkserver.client import start_on_server
        from procession._forkserver.configuration import Configuration
        from procession._forkserver.requests import pack_descriptors
        from procession._launch.payload import pickled_call
        from procession._linux.credentials import read_credentials

        spec = make_bootstrap_spec(launch, "forkserver", forked=True)
        # before `_streams`, whose descriptors may take the number of a closed stream
        tracker = spec["tracker"] = tracker_fd()
        with (
            pickled_call(launch) as pickled,
            exit_barrier(launch) as ends,
            death_pipes(launch.nprocs) as pipe_of_each,
            planted(spec["launch_id"], keep_daemons=launch.keep_daemons) as tree,
            _streams() as streams,
        ):
            pickled.describe_in(spec)
            spec["cwd"] = find_folder()
            spec["exit_barrier"] = ends
            pickled.file.write_spec(spec)
            credentials = read_credentials()
            main = pickled.main if preloads_main else None
            names = tuple(name for name in preload if name not in pickled.made)
            pipes = list(dict.fromkeys(pipe_of_each))  # one, if all ranks share it
            started = start_on_server(
                Configuration.of_now(main, names, pickled.locations, credentials),
                launch,
                _write_request(launch, tree, credentials.settings, len(pipes)),
                pack_descriptors(pickled.file.fd, pipes, streams, ends, pickled.fds, tracker),
            )
            return tree.attach(hand_over(pickled.file, started))


def _write_request(launch: Launch, tree: Tree, settings: Settings, pipes: int) -> StartMessage:
    """Return the request that tells the server how to start the ranks of a launch."""
    return {
        "nprocs": launch.nprocs,
        "environment": dict(os.environ),
        "changes": [dict(changes) for changes in launch.environments],
        "mark": tree.mark,
        "cgroup": tree.cgroup,
        "signals": read_actions(),
        "keep_handlers": launch.signals.keep_handlers,
        "settings": settings,
        "death_pipes": pipes,
    }


def _check_preload_main(launch: Launch) -> bool:
    """Return whether the server imports the main module and fn's."""
    choice = launch.options.get("preload_main", True)
    if not isinstance(choice, bool):
        raise TypeError(f"options['preload_main'] must be a bool, not {choice!r}")
    return choice


def _check_preload(launch: Launch, *, with_own: bool) -> tuple[str, ...]:
    """Return the modules for the server to import: that of fn first, that of `Launch.entry` last."""
    named = launch.options.get("preload", ())
    if not isinstance(named, (list, tuple)) or not all(isinstance(name, str) for name in named):
        raise TypeError(f"options['preload'] must be a list of module names, not {named!r}")
    module = getattr(unwrap(launch.fn)[0], "__module__", None)
    own: tuple[str, ...] = ()
    if with_own and module in sys.modules and module not in ("__main__", "__mp_main__"):
        own = (module,)
    named = tuple(map(plain_str, named))
    names = (*own, *named, *_list_preloads_of_multiprocessing(), find_entry_module(launch))
    return tuple(dict.fromkeys(filter(None, names)))


def _list_preloads_of_multiprocessing() -> list[str]:
    """Return the modules given to `multiprocessing.set_forkserver_preload`, without the main module."""
    server = get_if_imported("multiprocessing.forkserver", "_forkserver")
    names = getattr(server, "_preload_modules", None) or ()
    return [name for name in names if name not in ("__main__", "__mp_main__")]


@contextmanager
def _streams() -> Iterator[list[int]]:
    """Provide the standard streams for the ranks, as new descriptors that the block's end closes."""
    streams: list[int] = []
    try:
        streams.extend(map(_stream_or_nothing, (0, 1, 2)))
        yield streams
    finally:
        for fd in streams:
            unpatched.close(fd)


def _stream_or_nothing(number: int) -> int:
    """Return a duplicate of a standard stream; open the null device for standard input or a closed stream."""
    try:
        if number and fds.has_stream(number):
            return os.dup(number)
    except OSError:
        pass
    return os.open(os.devnull, os.O_RDWR)

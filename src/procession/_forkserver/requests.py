"""Every message between a caller and its forkserver, and the descriptors that travel with a request.

`messages` carries each as one frame.  The server imports this module: it imports nothing at its top.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, TypedDict

    from procession._linux.credentials import Settings
    from procession._rank.spec import BootstrapSpec

    class ConfigureMessage(TypedDict):
        """The first message to a server: what it is to be and to import."""

        sys_path: list[str]
        argv: list[str]
        settings: Settings
        capabilities: tuple[int, int, int] | None  # `credentials.find_excess`
        main: tuple[str, str] | None  # how to import __main__ ("path" or "name"), and which
        preload: tuple[str, ...]
        locations: Mapping[str, tuple[str, Sequence[str]]]  # of modules that are not on sys_path

    class ConfiguredMessage(TypedDict):
        """The server's answer to it."""

        failed: list[tuple[str, str, str]]  # modules, tracebacks, refusals of a launch at import
        threads: list[str]  # names of threads that run since

    class StartMessage(TypedDict):
        """A request to fork the ranks of a launch."""

        nprocs: int
        environment: dict[str, str]
        changes: list[dict[str, str | None]]  # to the environment, one a rank
        mark: int
        cgroup: str
        signals: Any  # the caller's actions: `fork_signals.read_actions`
        keep_handlers: bool
        settings: Settings
        death_pipes: int  # how many of the descriptors these are

    class StartedMessage(TypedDict):
        """The answer where all ranks were forked; with it come each rank's channel and pidfd."""

        pids: list[int]

    class FailedMessage(TypedDict):
        """The answer where one could not be."""

        errno: int | None
        strerror: str | None
        rank: int


def pack_descriptors(
    payload: int,
    pipes: list[int],
    streams: list[int],
    ends: list[int],
    files: list[int],
    tracker: int,
) -> list[int]:
    """Return the descriptors that travel with a `StartMessage`, in their order.

    Args:
        payload: the file that `payload_file` writes.
        pipes: the death pipes.
        streams: standard input, output and error.
        ends: those of the exit barrier, or none.
        files: what the pickle of the call brings.
        tracker: the resource tracker's, -1 for none.
    """
    return [payload, *pipes, *streams, *ends, *files, *([tracker] if tracker >= 0 else [])]


def unpack_descriptors(
    handed: list[int], request: StartMessage
) -> tuple[int, list[int], list[int], list[int]]:
    """Return the payload, the death pipes, the streams, and the rest: see `assign_shared`."""
    pipes = 1 + request["death_pipes"]
    return handed[0], handed[1:pipes], handed[pipes : pipes + 3], handed[pipes + 3 :]


def assign_shared(spec: BootstrapSpec, rest: list[int]) -> None:
    """Write into a rank's spec what the descriptors that it shares with the others are here."""
    ends = len(spec["exit_barrier"])
    spec["tracker"] = rest.pop() if spec["tracker"] >= 0 else -1
    spec["exit_barrier"], spec["fds"] = rest[:ends], rest[ends:]

"""A rank of the start method: its flags, its place in JAX's distributed runtime, and how it leaves that."""

from __future__ import annotations

import atexit
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict

from procession.forkcheck import find_initialised
from procession.identity import when_imported
from procession_xla.coordinator import await_coordinator, is_listening


class Place(TypedDict):
    """What a rank is told of its launch."""

    nprocs: int
    base: str
    framework: str
    changed: list[str]  # names of the variables that this rank's environment has of its own
    coordinator: str
    reserved: bool  # whether the launcher keeps the coordinator's port
    local_device_ids: list[int] | None
    distributed: bool | None
    initialization_timeout: int
    heartbeat_timeout: int
    shutdown_timeout: int


_rank: int = -1
_place: Place | None = None


def enter(rank: int, place: Place) -> Callable[[bool], None] | None:
    """Make this process ready to be a rank, before it imports anything of its function's."""
    global _rank, _place
    _rank, _place = rank, place
    if place["framework"] != "jax":
        return None
    if "jax" in sys.modules:
        _refuse_initialised(place["base"])
        preloaded: Any = sys.modules.get("procession_xla.preloaded")
        if preloaded is None:
            _set_flags(place["changed"])
        else:
            _set_flags(
                name for name, value in os.environ.items() if value != preloaded.before.get(name)
            )
            _add_again(preloaded.before, preloaded.added)
    when_imported("jax._src.clusters", _register_cluster)
    if place["distributed"]:
        initialize()
    return _leave


def initialize(**arguments: Any) -> None:
    """Connect this rank to the others: `jax.distributed.initialize` with this rank's arguments.

    Nothing happens where it is connected already.  It must come before the first use of a device.

    Args:
        arguments: what is to be other than the launch says.

    Raises:
        RuntimeError: this process is no rank of start method ``xla``, or has used a device already.
        TimeoutError: rank 0 has not called it in time.
    """
    if _place is None or _place["framework"] != "jax":
        raise RuntimeError("procession_xla.initialize() is for ranks of start_method='xla' on JAX")
    from jax import distributed

    if distributed.is_initialized():
        return
    told = {
        "coordinator_address": _place["coordinator"],
        "num_processes": _place["nprocs"],
        "process_id": _rank,
        "local_device_ids": _place["local_device_ids"],
        "initialization_timeout": _place["initialization_timeout"],
        "heartbeat_timeout_seconds": _place["heartbeat_timeout"],
        "shutdown_timeout_seconds": _place["shutdown_timeout"],
        "cluster_detection_method": "deactivate",  # nothing is left to be detected
        **arguments,
    }
    _prepare_coordinator()
    distributed.initialize(**told)


def _prepare_coordinator() -> None:
    """Wait for rank 0, or, in rank 0, see that it can listen: JAX would crash where it cannot."""
    assert _place is not None
    if _rank:
        await_coordinator(_place["coordinator"], _place["initialization_timeout"])
    elif not _place["reserved"] and is_listening(_place["coordinator"]):
        raise RuntimeError(f"options['coordinator']: {_place['coordinator']} is in use already")


def _refuse_initialised(base: str) -> None:
    """Refuse to be a fork of a process in which JAX has its devices: the first operation would hang."""
    if "jax" in find_initialised().get("XLA", []):
        raise RuntimeError(
            f"JAX has initialised its devices in the process that this rank is a fork of ({base}): what is "
            "imported there must not use JAX at its import. Take it out of options['preload'], or use "
            "options={'base': 'spawn'}"
        )


def _set_flags(names: Iterable[str]) -> None:
    """Have JAX, which reads its flags where it is imported, take over those that came later."""
    config: Any = sys.modules["jax"].config
    for name in names:
        flag = name.lower()
        if name.startswith("JAX_") and name in os.environ and flag in config.values:
            value = _parse(config, flag, os.environ[name])
            if config.values[flag] != value:
                config.update(flag, value)


def _add_again(before: Mapping[str, str], added: Mapping[str, str]) -> None:
    """Add to the environment what JAX did where it was imported, but to variables that differ by now."""
    for name, value in added.items():
        if os.environ.get(name) == before.get(name):
            os.environ[name] = value


def _parse(config: Any, flag: str, text: str) -> Any:
    """Return the value of a flag as JAX reads it from the environment (jax/_src/config.py)."""
    kind = config.meta[flag][0]
    if kind is bool:
        return text.lower() in ("y", "yes", "t", "true", "on", "1")
    return kind(text) if kind in (int, float) else text


def _register_cluster() -> None:
    """Have `jax.distributed.initialize()` without arguments find this rank's place, before any other.

    JAX has no public way to add a cluster; without this, `procession_xla.initialize` still works.
    """
    clusters: Any = sys.modules["jax._src.clusters"]

    class ProcessionCluster(clusters.ClusterEnv):  # type: ignore[misc]
        """A rank's place, as JAX asks for it."""

        name = "procession"

        @classmethod
        def is_env_present(cls) -> bool:
            """Tell that there is one: this process is a rank."""
            return True

        @classmethod
        def get_coordinator_address(cls, *_: object, **__: object) -> str | None:
            """Return the address of rank 0."""
            return _place and _place["coordinator"]

        @classmethod
        def get_process_count(cls) -> int | None:
            """Return the number of ranks."""
            return _place and _place["nprocs"]

        @classmethod
        def get_process_id(cls) -> int:
            """Return the rank, once rank 0 can be connected to."""
            _prepare_coordinator()
            return _rank

    known = getattr(clusters.ClusterEnv, "_cluster_types", None)
    if known is not None and ProcessionCluster in known:
        known.remove(ProcessionCluster)
        known.insert(0, ProcessionCluster)


def _leave(succeeded: bool) -> None:
    """Leave JAX's distributed runtime: in order if all ranks do, else without another word."""
    jax: Any = sys.modules.get("jax")
    if jax is None:
        return
    if not succeeded:
        clean_up: Any = getattr(sys.modules.get("jax._src.api"), "clean_up", None)
        atexit.unregister(clean_up)  # it waits minutes for ranks that will not come
    elif jax.distributed.is_initialized():
        jax.distributed.shutdown()
    elif _rank == 0:
        _warn_of_isolation()


def _warn_of_isolation() -> None:
    assert _place is not None
    if _place["distributed"] is None and _place["nprocs"] > 1 and "XLA" in find_initialised():
        warnings.warn(
            "the ranks used JAX without being connected: each saw its own devices only. Use "
            "options={'distributed': True}, or call procession_xla.initialize() first in the function; "
            "if they are to be independent, options={'distributed': False} says so",
            RuntimeWarning,
            stacklevel=2,
        )

"""The start method ``xla``: another start method starts the ranks; each has its own devices."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from procession import (
    Availability,
    Capabilities,
    Launch,
    Started,
    UnsafeForkError,
    commands,
    get_backend,
)
from procession.authoring import find_initialised, merge, note_on
from procession_xla.coordinator import Reservation, find_free_port
from procession_xla.hardware import has_plugin
from procession_xla.options import NAMES, Options, read_options
from procession_xla.plan import Changes, Plan, make_plan, plan_rank

if TYPE_CHECKING:
    from procession_xla.place import Place

ROOT = Path("/")


class XlaBackend:
    """Starts one rank for each accelerator, or group of them: see `procession_xla.options.Options`."""

    name: str = "xla"
    protocol_version: int = 1
    capabilities: Capabilities = commands.CAPABILITIES.replace(exit_barrier=True, rendezvous=True)
    options: frozenset[str] = NAMES

    def availability(self) -> Availability:
        """Return whether this platform can start ranks and JAX is installed."""
        if importlib.util.find_spec("jax") is None:
            return Availability(False, "JAX is not installed", "pip install jax")
        return commands.availability()

    def default_nprocs(self, options: Mapping[str, Any]) -> int:
        """Return the number of devices on this host, or of groups of ``devices_per_rank``."""
        return make_plan(None, read_options(options), os.environ, ROOT).nprocs

    def start(self, launch: Launch) -> Started:
        """Start the ranks, each with its devices.

        Raises:
            TypeError, ValueError: an option is bad, there are too few devices, or JAX has no plugin for them.
            UnsafeForkError: ``base`` is ``fork``, and XLA is initialised in this process.
            RuntimeError: this process holds the TPU chips.
        """
        options = read_options(launch.options)
        own = dict(os.environ)
        environs = [merge(own, changes) for changes in launch.environments]
        plan = make_plan(launch.nprocs, options, environs[0], ROOT)
        _check_plugin(plan)
        _check_caller(plan)
        reservation = Reservation(options.coordinator)
        coordinator = reservation.address
        try:
            master_port = find_free_port() if options.framework == "torch_xla" else 0
            planned = [
                plan_rank(plan, rank, environ, coordinator, master_port)
                for rank, environ in enumerate(environs)
            ]
            changes = list(map(_add_given, planned, launch.environments))
            started = _start_ranks(launch, plan, changes, coordinator)
        except BaseException:
            reservation.close()
            raise

        def finish() -> None:
            if started.on_finish is not None:
                started.on_finish()
            reservation.close()

        return started.replace(on_finish=finish)


def _start_ranks(launch: Launch, plan: Plan, changes: list[Changes], coordinator: str) -> Started:
    options = plan.options
    changed = sorted({name for one in changes for name in one})
    place = _describe_place(plan, changed, coordinator)
    launch = launch.replace(
        environments=tuple(changes),
        options=_choose_base_options(options),
        entry=("procession_xla.member:enter", place),
        exit_barrier=True,
    )
    try:
        return get_backend(f"procession:{options.base}").start(launch)
    except UnsafeForkError as error:
        note_on(
            error,
            "start_method='xla' forks this process because of options={'base': 'fork'}; 'forkserver' (its "
            "default) and 'spawn' do not",
        )
        raise


def _describe_place(plan: Plan, changed: list[str], coordinator: str) -> Place:
    """Return what the launcher passes to the ranks."""
    options = plan.options
    own_gpus = plan.platform in ("cuda", "rocm")
    return {
        "nprocs": plan.nprocs,
        "base": options.base,
        "framework": options.framework,
        "changed": changed,
        "coordinator": coordinator,
        "reserved": options.coordinator is None,
        "local_device_ids": list(range(options.devices_per_rank)) if own_gpus else None,
        "distributed": options.distributed,
        "initialization_timeout": options.initialization_timeout,
        "heartbeat_timeout": options.heartbeat_timeout,
        "shutdown_timeout": options.shutdown_timeout,
    }


def _choose_base_options(options: Options) -> dict[str, Any]:
    if options.base != "forkserver":
        return {}
    jax = ("procession_xla.preloaded",) if options.framework == "jax" else ()
    # the main module may use a device at its import, and then no fork works
    return {"preload": [*jax, *options.preload], "preload_main": False}


def _check_plugin(plan: Plan) -> None:
    """Refuse a platform that JAX cannot use: JAX would use the CPU without a warning."""
    platform = plan.platform
    if plan.options.framework == "jax" and platform != "cpu" and not has_plugin(platform):
        extra = {"cuda": "cuda13", "rocm": "rocm7-local"}.get(platform, platform)
        raise ValueError(
            f"start method 'xla': JAX has no plugin for {platform!r} here: pip install 'jax[{extra}]'"
        )


def _check_caller(plan: Plan) -> None:
    """Raise or warn if this process has the devices that the ranks need."""
    if "XLA" not in find_initialised() or plan.options.base == "fork":
        return
    if plan.platform == "tpu":
        raise RuntimeError(
            "start method 'xla': XLA is initialised in this process, which holds the TPU chips: no rank "
            "can open them. Start the ranks before this process uses a device; in a notebook, restart "
            "the kernel"
        )
    if plan.platform in ("cuda", "rocm") and _preallocates():
        warnings.warn(
            "start method 'xla': XLA is initialised in this process, and may hold most of the memory of "
            "the GPUs that the ranks use; start the ranks first, or set XLA_PYTHON_CLIENT_PREALLOCATE=false",
            RuntimeWarning,
            stacklevel=2,
        )


def _preallocates() -> bool:
    return os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", "true").lower() not in ("0", "false")


def _add_given(planned: Changes, given: Mapping[str, str | None]) -> Changes:
    """Return the planned changes updated by the caller's; the planned XLA_FLAGS contain the caller's."""
    merged = {**planned, **given}
    if planned.get("XLA_FLAGS"):
        merged["XLA_FLAGS"] = planned["XLA_FLAGS"]
    return merged

"""Plans the devices of each rank, and the environment that gives them to it.

This module uses no device and no port, and does not change this process's environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from procession_xla.coordinator import LOCALHOST
from procession_xla.hardware import (
    VISIBLE,
    Environment,
    find_devices,
    find_platform,
    find_tpu_chips,
)
from procession_xla.options import Options, read_options
from procession_xla.tpu import find_bounds, plan_tpu

Changes = dict[str, "str | None"]
"""Variables to set; None removes one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The platform, the number of ranks, and the devices of each rank."""

    options: Options
    platform: str
    groups: tuple[tuple[str, ...], ...]
    bounds: tuple[str, str] = ("", "")

    @property
    def nprocs(self) -> int:
        """The number of ranks."""
        return len(self.groups)


def plan_environments(
    nprocs: int | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    environ: Environment | None = None,
    root: str | os.PathLike[str] = "/",
) -> list[Changes]:
    """Return the environment that each rank of a launch would get, without starting any rank.

    Args:
        nprocs: the number of ranks; None is one for each device, or group of ``devices_per_rank``.
        options: the options of the launch.
        environ: the caller's environment; None is this process's.
        root: the folder that contains this host's ``/dev`` and ``/sys``.

    Returns:
        One mapping a rank, with the changes to the environment; None removes a variable.  A port that a
        launch would reserve is 0 here.

    Raises:
        TypeError, ValueError: an option is bad, or there are too few devices.
    """
    environ = os.environ if environ is None else environ
    read = read_options(options or {})
    plan = make_plan(nprocs, read, environ, Path(root))
    coordinator = read.coordinator or f"{LOCALHOST}:0"
    return [plan_rank(plan, rank, environ, coordinator, 0) for rank in range(plan.nprocs)]


def make_plan(nprocs: int | None, options: Options, environ: Environment, root: Path) -> Plan:
    """Assign devices to ranks.

    Raises:
        ValueError: there are too few devices.
    """
    platform = options.platform or find_platform(environ, root)
    devices = _choose_devices(platform, options, environ, root)
    share = options.devices_per_rank
    if nprocs is not None and nprocs < 1:
        raise ValueError(f"nprocs must be at least 1, not {nprocs}")
    if nprocs is None:
        nprocs = max(len(devices) // share, 1)
    if platform == "cpu" and options.devices is None:
        devices = [
            str(index) for index in range(nprocs * share)
        ]  # as many virtual devices as needed
    if nprocs * share > len(devices):
        raise ValueError(
            f"start method 'xla': {nprocs} processes x {share} devices need {nprocs * share} "
            f"{platform} devices, {len(devices)} {_tell_source(platform, options, environ)}"
        )
    groups = tuple(tuple(devices[rank * share :][:share]) for rank in range(nprocs))
    if platform != "tpu":
        return Plan(options, platform, groups)
    given = options.tpu_process_bounds, options.tpu_chips_per_process_bounds
    generation = (find_tpu_chips(root) or [""])[0]
    bounds = find_bounds(options.framework, nprocs, share, generation, given)
    return Plan(options, platform, groups, bounds)


def _choose_devices(platform: str, options: Options, environ: Environment, root: Path) -> list[str]:
    chosen = options.devices
    if platform == "cpu":
        if isinstance(chosen, tuple):
            raise ValueError("options['devices'] is a number on cpu, whose devices are virtual")
        return [str(i) for i in range(chosen)] if chosen else find_devices("cpu", environ, root)
    visible = find_devices(platform, environ, root)
    if isinstance(chosen, int):
        if chosen > len(visible):
            source = _tell_source(platform, Options(), environ)
            raise ValueError(
                f"options['devices'] is {chosen}, but {len(visible)} {platform} devices are {source}"
            )
        return visible[:chosen]
    # a GPU may have its UUID as its name, which only its driver knows
    named = [one for one in chosen or () if one.isdecimal() or platform == "tpu"]
    unseen = [one for one in named if one not in visible]
    if unseen:
        raise ValueError(
            f"options['devices']: {platform} device {unseen[0]} is not among {visible}"
        )
    return list(chosen or visible)


def _tell_source(platform: str, options: Options, environ: Environment) -> str:
    if options.devices is not None:
        return "in options['devices']"
    name = VISIBLE.get(platform, "")
    return "visible" + (f" ({name}={environ[name]})" if name in environ else "")


def plan_rank(
    plan: Plan, rank: int, environ: Environment, coordinator: str, master_port: int
) -> Changes:
    """Return one rank's changes to the environment ``environ``."""
    options, platform = plan.options, plan.platform
    changes: Changes = {
        "PJRT_DEVICE": platform.upper(),
        "PJRT_LOCAL_PROCESS_RANK": str(rank),
        "PJRT_LOCAL_PROCESS_COUNT": str(plan.nprocs),
        "JAX_COORDINATOR_ADDRESS": coordinator,
        "JAX_NUM_PROCESSES": str(
            plan.nprocs
        ),  # JAX does not read this and the next one; scripts do
        "JAX_PROCESS_ID": str(rank),
        "JAX_LOCAL_DEVICE_IDS": None,
        "JAX_ENABLE_PREEMPTION_SERVICE": str(int(options.preemption_service)),
    }
    own = (
        coordinator if options.coordinator is None else None
    )  # by default JAX listens on all interfaces
    changes["JAX_COORDINATOR_BIND_ADDRESS"] = own
    if options.platform is not None or not environ.get("JAX_PLATFORMS"):
        changes["JAX_PLATFORMS"] = platform if platform == "cpu" else f"{platform},cpu"
    if options.framework == "torch_xla":
        changes |= _plan_torch(coordinator, master_port)
    return changes | _plan_devices(plan, rank, environ)


def _plan_torch(coordinator: str, master_port: int) -> Changes:
    """Return the variables by which torch_xla takes the rank for one of torchrun's, and connects it."""
    return {
        "TORCHELASTIC_RUN_ID": coordinator,
        "MASTER_ADDR": LOCALHOST,
        "MASTER_PORT": str(master_port),
    }


def _plan_devices(plan: Plan, rank: int, environ: Environment) -> Changes:
    group = plan.groups[rank]
    if plan.platform == "tpu":
        return {**plan_tpu(rank, plan.nprocs, group, plan.bounds)}
    if plan.platform != "cpu":
        local = ",".join(str(index) for index in range(len(group)))
        return {
            VISIBLE[plan.platform]: ",".join(group),
            f"JAX_{plan.platform.upper()}_VISIBLE_DEVICES": None,  # else JAX applies it to these
            "JAX_LOCAL_DEVICE_IDS": local,
        }
    count = str(len(group))
    changes: Changes = {"JAX_NUM_CPU_DEVICES": count, "CPU_NUM_DEVICES": count}
    flags = environ.get("XLA_FLAGS", "")
    if not flags or flags.startswith("-"):  # other values are the name of a file
        changes["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={count}".strip()
    return changes

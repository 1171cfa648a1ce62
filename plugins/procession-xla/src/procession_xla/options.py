"""The options of the start method, checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

BASES = ("forkserver", "spawn", "fork")
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
FRAMEWORKS = ("jax", "torch_xla")


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the start method.

    Args:
        base: the start method that starts the ranks: ``forkserver`` (its server imports JAX), ``spawn`` or
            ``fork``.
        platform: ``cpu``, ``cuda``, ``rocm`` or ``tpu``.  None takes the value of JAX_PLATFORMS or
            PJRT_DEVICE; else the platform that this host has and JAX has a plugin for, TPU chips first;
            else ``cpu``.
        devices: the local devices to use: their number, or a list of their indices (or UUIDs, for
            CUDA).  None: all visible ones.  On ``cpu`` the devices are virtual, and this is a number.
        devices_per_rank: the number of devices of each rank.
        distributed: True calls `initialize` in each rank before its function.  False says that the ranks
            are independent.  None leaves the call to the function, and warns if that used JAX without it.
        coordinator: ``host:port`` of JAX's coordinator, which rank 0 runs; None reserves a local port.
        initialization_timeout: seconds within which all ranks must call `initialize`.
        heartbeat_timeout: seconds after which JAX gives up a silent rank.
        shutdown_timeout: seconds that a rank waits for the others when it disconnects.
        preemption_service: whether JAX's preemption service runs.  It handles SIGTERM in ranks, so that
            only the SIGKILL after the grace period ends them.
        preload: modules that the forkserver's server imports besides JAX; none may use a device.
        framework: ``jax``, or ``torch_xla``, which gets environment variables only.
        tpu_process_bounds, tpu_chips_per_process_bounds: replace the values of the table in
            `procession_xla.tpu`.
    """

    base: str = "forkserver"
    platform: str | None = None
    devices: int | tuple[str, ...] | None = None
    devices_per_rank: int = 1
    distributed: bool | None = None
    coordinator: str | None = None
    initialization_timeout: int = 60
    heartbeat_timeout: int = 100
    shutdown_timeout: int = 30
    preemption_service: bool = False
    preload: tuple[str, ...] = ()
    framework: str = "jax"
    tpu_process_bounds: str | None = None
    tpu_chips_per_process_bounds: str | None = None


NAMES = frozenset(field.name for field in fields(Options))


def read_options(given: Mapping[str, Any]) -> Options:
    """Return the options of a launch.

    Raises:
        TypeError, ValueError: one is bad; the message names it.
    """
    unknown = sorted(set(given) - NAMES)
    if unknown:
        raise ValueError(f"options: 'xla' does not know {unknown[0]!r}; it knows {sorted(NAMES)}")
    read = {name: _READERS[name](f"options[{name!r}]", value) for name, value in given.items()}
    options = Options(**read)
    if options.distributed and options.framework != "jax":
        raise ValueError(
            "options['distributed'] is JAX's own: with framework='torch_xla' fn calls "
            "torch.distributed.init_process_group('xla', init_method='xla://')"
        )
    return options


def _read_choice(*choices: str | None) -> Any:
    def read(name: str, value: Any) -> Any:
        if value not in choices:
            raise ValueError(f"{name} must be one of {choices}, not {value!r}")
        return value

    return read


def _read_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, not {value!r}")
    return value


def _read_flag_or_none(name: str, value: Any) -> bool | None:
    return None if value is None else _read_flag(name, value)


def _read_count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    return value


def _read_devices(name: str, value: Any) -> int | tuple[str, ...] | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return None if value is None else _read_count(name, value)
    if not isinstance(value, (list, tuple)) or not all(map(_is_device, value)):
        raise TypeError(f"{name} must be a number or a list of indices or UUIDs, not {value!r}")
    devices = tuple(map(str, value))
    if not devices or len(set(devices)) != len(devices):
        raise ValueError(f"{name} must name at least one device, and none twice: {value!r}")
    return devices


def _is_device(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"[^\s,-][^\s,]*", value) is not None
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _read_names(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
        raise TypeError(f"{name} must be a list of module names, not {value!r}")
    return tuple(value)


def _read_address(name: str, value: Any) -> str | None:
    if value is None:
        return None
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"{name} must be 'host:port', not {value!r}")
    return str(value)


def _read_bounds(name: str, value: Any) -> str | None:
    if value is None:
        return None
    parts = value.split(",") if isinstance(value, str) else []
    if len(parts) not in (3, 4) or not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"{name} must be three or four numbers such as '2,2,1', not {value!r}")
    return str(value)


_READERS: dict[str, Any] = {
    "base": _read_choice(*BASES),
    "platform": _read_choice(None, *PLATFORMS),
    "devices": _read_devices,
    "devices_per_rank": _read_count,
    "distributed": _read_flag_or_none,
    "coordinator": _read_address,
    "initialization_timeout": _read_count,
    "heartbeat_timeout": _read_count,
    "shutdown_timeout": _read_count,
    "preemption_service": _read_flag,
    "preload": _read_names,
    "framework": _read_choice(*FRAMEWORKS),
    "tpu_process_bounds": _read_bounds,
    "tpu_chips_per_process_bounds": _read_bounds,
}

"""Finds the platform and the devices of this host, without starting any runtime.

``root`` is the root of the file system; a test passes another.
"""

from __future__ import annotations

import importlib.util
import pkgutil
import re
from collections.abc import Mapping
from pathlib import Path

from procession_xla.tpu import GENERATIONS

Environment = Mapping[str, str]

VISIBLE = {"cuda": "CUDA_VISIBLE_DEVICES", "rocm": "HIP_VISIBLE_DEVICES"}
"""The variable that lists the GPUs that a process sees (CUDA's and HIP's documentation)."""

_GOOGLE = "0x1ae0"

ACCELERATORS = ("tpu", "cuda", "rocm")
"""The platforms other than ``cpu``, in the order of the search."""

_FORCED = re.compile(r"--xla_force_host_platform_device_count=(\d+)")


def find_platform(environ: Environment, root: Path) -> str:
    """Return the platform that the environment selects, or that JAX would use on this host.

    Raises:
        ValueError: the environment names one that this start method does not know.
    """
    for name in ("JAX_PLATFORMS", "PJRT_DEVICE"):
        chosen = environ.get(name, "").partition(",")[0].strip().lower()
        if chosen == "gpu":  # JAX's name for any GPU
            has_rocm = not find_gpus("cuda", environ, root) and find_gpus("rocm", environ, root)
            return "rocm" if has_rocm else "cuda"
        if chosen in ("cpu", *ACCELERATORS):
            return chosen
        if chosen:
            known = ", ".join(ACCELERATORS)
            raise ValueError(f"{name}={environ[name]!r}: 'xla' knows cpu, gpu, {known}")
    for platform in ACCELERATORS:
        if has_plugin(platform) and find_devices(platform, environ, root):
            return platform
    return "cpu"


def has_plugin(platform: str) -> bool:
    """Return whether JAX's plugin for a platform is installed (JAX's installation guide)."""
    if platform == "tpu":
        return importlib.util.find_spec("libtpu") is not None
    spec = importlib.util.find_spec("jax_plugins")  # a namespace package: nothing is imported
    folders = spec.submodule_search_locations if spec is not None else ()
    return any(name.startswith(f"xla_{platform}") for _, name, _ in pkgutil.iter_modules(folders))


def find_devices(platform: str, environ: Environment, root: Path) -> list[str]:
    """Return the devices of a platform that this process sees, as indices or UUIDs."""
    if platform == "cpu":
        return [str(index) for index in range(count_virtual_devices(environ))]
    if platform == "tpu":
        return [str(index) for index in range(len(find_tpu_chips(root)))]
    return find_gpus(platform, environ, root)


def find_gpus(platform: str, environ: Environment, root: Path) -> list[str]:
    """Return the visible GPUs, named as in the caller's own list of visible devices."""
    listed = environ.get(VISIBLE[platform])
    if listed is None:
        devices = [str(index) for index in range(_count_gpus(platform, environ, root))]
    else:
        devices = [part.strip() for part in listed.split(",") if part.strip()]
    if "-1" in devices:  # CUDA sees the devices before the first invalid index
        devices = devices[: devices.index("-1")]
    chosen = environ.get(f"JAX_{platform.upper()}_VISIBLE_DEVICES", "all")
    if chosen == "all":
        return devices
    indices = [int(part) for part in chosen.split(",") if part.strip().isdecimal()]
    return [devices[index] for index in indices if index < len(devices)]


def _count_gpus(platform: str, environ: Environment, root: Path) -> int:
    if platform == "cuda":
        return len([one for one in root.glob("dev/nvidia*") if one.name[6:].isdecimal()])
    if "ROCR_VISIBLE_DEVICES" in environ:  # HIP numbers the devices that the layer below it shows
        return len([part for part in environ["ROCR_VISIBLE_DEVICES"].split(",") if part])
    nodes = root.glob("sys/class/kfd/kfd/topology/nodes/*/properties")
    return sum(bool(re.search(r"^simd_count [1-9]", _read(node), re.MULTILINE)) for node in nodes)


def find_tpu_chips(root: Path) -> list[str]:
    """Return the generation of each TPU chip on the PCI bus; a chip is function 0 of its device."""
    found = [
        GENERATIONS.get(_read(device / "device").strip(), "")
        for device in root.glob("sys/bus/pci/devices/*.0")
        if _read(device / "vendor").strip() == _GOOGLE
    ]
    return [generation for generation in found if generation]


def count_virtual_devices(environ: Environment) -> int:
    """Return the number of CPU devices that the environment requests (for JAX or torch_xla), or 1."""
    forced = _FORCED.findall(environ.get("XLA_FLAGS", ""))
    for text in (environ.get("JAX_NUM_CPU_DEVICES"), *forced[-1:], environ.get("CPU_NUM_DEVICES")):
        if text and text.isdecimal() and int(text):
            return int(text)
    return 1


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""

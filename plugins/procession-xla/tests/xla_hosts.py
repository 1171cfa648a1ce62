"""Folders that stand in for hosts, in the tests of plans."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from procession_xla import plan_environments
from procession_xla.tpu import GENERATIONS

Changes = dict[str, "str | None"]

FORCE = "--xla_force_host_platform_device_count="
GOOGLE = "0x1ae0"
CHIPS = tuple(GENERATIONS)
IDS = {generation: device for device, generation in GENERATIONS.items()}


def plan(
    root: Path, nprocs: int | None = None, environ: Mapping[str, str] | None = None, **options: Any
) -> list[Changes]:
    return plan_environments(nprocs, options, environ=environ or {}, root=root)


def values(plans: list[Changes], name: str) -> list[str | None]:
    return [changes[name] for changes in plans]


def add_nvidia(root: Path, count: int) -> None:
    for name in (*map(str, range(count)), "ctl", "-uvm", "-uvm-tools", "-modeset"):
        (root / "dev").mkdir(exist_ok=True)
        (root / "dev" / f"nvidia{name}").touch()
    (root / "dev" / "nvidia-caps").mkdir()


def add_amd(root: Path, count: int) -> None:
    for index in range(count + 1):  # node 0 is the processor
        node = root / "sys/class/kfd/kfd/topology/nodes" / str(index)
        node.mkdir(parents=True)
        text = f"cpu_cores_count {0 if index else 16}\nsimd_count {256 if index else 0}\n"
        (node / "properties").write_text(f"{text}simd_per_cu 4\n")


def add_pci(root: Path, index: int, vendor: str, device: str) -> None:
    folder = root / f"sys/bus/pci/devices/0000:00:{index:02x}.0"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "device").write_text(f"{device}\n")


def add_tpu(root: Path, count: int, device: str = "0x0063") -> None:
    for index in range(count):
        add_pci(root, 16 + index, GOOGLE, device)
    add_pci(root, 1, GOOGLE, "0x0042")  # Google's network card
    add_pci(root, 2, "0x8086", device)  # a device of another vendor with a chip's number
    add_pci(root, 3, "0x10de", "0x2330")  # a GPU
    (root / "sys/bus/pci/devices/0000:00:04.0").mkdir()  # one that has gone

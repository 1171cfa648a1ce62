"""Divides the TPU chips of one host among ranks, by environment variables.

The shapes are those of JAX 0.12 (jax/_src/test_multiprocess.py) and torch_xla 2.9 (tpu.configure_topology),
which differ.  This project has not run any of them.
"""

from __future__ import annotations

from collections.abc import Sequence

FIRST_PORT = 8476
"""The port of rank 0's libtpu, as in torch_xla; each further rank has the next port."""

GENERATIONS = {
    "0x0027": "v3",
    "0x0056": "plc",
    "0x005e": "v4",
    "0x0062": "v5p",
    "0x0063": "v5e",
    "0x006f": "v6e",
    "0x0076": "tpu7x",
    "0x0083": "tpu8i",
    "0x007c": "tpu8t",
}
"""TPU generations by their chips' PCI device ids (jax/_src/hardware_utils.py)."""

Shape = tuple[int, ...]

_MESHES: dict[
    int, dict[str, Shape]
] = {  # how a host's chips are connected; "" stands for every other generation
    1: {"": (1, 1, 1)},
    2: {"": (2, 1, 1), "v5p": (1, 2, 1), "tpu8t": (1, 2, 1)},
    4: {"": (2, 2, 1), "tpu8i": (4, 1, 1)},
    8: {"": (4, 2, 1), "v6e": (2, 4, 1), "v4": (2, 2, 2), "tpu7x": (2, 2, 2)},
}
_PARTS: dict[tuple[int, int], Shape] = {(4, 2): (1, 2, 1), (8, 4): (2, 2, 1)}
_PARTS_IN_A_ROW: dict[tuple[int, int], Shape] = {(4, 2): (2, 1, 1)}
_MESHES_OF_TORCH: dict[int, Shape] = {1: (1, 1, 1), 4: (2, 2, 1), 8: (2, 4, 1)}


def find_bounds(
    framework: str, nprocs: int, share: int, generation: str, given: Sequence[str | None]
) -> tuple[str, str]:
    """Return TPU_PROCESS_BOUNDS and TPU_CHIPS_PER_PROCESS_BOUNDS for ranks of ``share`` chips each.

    Values in ``given`` win.

    Raises:
        ValueError: the framework does not divide chips like this.
    """
    processes, chips = given
    if processes and chips:
        return processes, chips
    divide = _divide_as_jax if framework == "jax" else _divide_as_torch
    found = divide(nprocs * share, share, generation)
    if found is None:
        raise ValueError(
            f"start method 'xla': {framework} has no bounds for {nprocs} processes of {share} TPU "
            "chips; set them by the options tpu_process_bounds and tpu_chips_per_process_bounds"
        )
    return processes or _write(found[0]), chips or _write(found[1])


def _divide_as_jax(chips: int, share: int, generation: str) -> tuple[Shape, Shape] | None:
    meshes = _MESHES.get(chips, {})
    mesh = meshes.get(generation) or meshes.get("")
    parts = _PARTS_IN_A_ROW if generation == "tpu8i" else _PARTS
    part = {1: (1, 1, 1), chips: mesh}.get(share) or parts.get((chips, share))
    if mesh is None or part is None:
        return None
    return tuple(whole // own for whole, own in zip(mesh, part, strict=True)), part


def _divide_as_torch(chips: int, share: int, generation: str) -> tuple[Shape, Shape] | None:
    mesh = _MESHES_OF_TORCH.get(chips)
    if mesh is None or share != 1:
        return None
    if generation == "tpu7x" and chips > 1:
        mesh = (*mesh, 2)  # two cores a chip make a fourth dimension
    return mesh, (1, 1, 1)


def _write(shape: Shape) -> str:
    return ",".join(map(str, shape))


def plan_tpu(
    rank: int, nprocs: int, chips: Sequence[str], bounds: tuple[str, str]
) -> dict[str, str]:
    """Return the environment of one rank, which replaces values that Colab or Kaggle preset."""
    ports = range(FIRST_PORT, FIRST_PORT + nprocs)
    return {
        "TPU_VISIBLE_CHIPS": ",".join(chips),
        "TPU_PROCESS_BOUNDS": bounds[0],
        "TPU_CHIPS_PER_PROCESS_BOUNDS": bounds[1],
        "TPU_PROCESS_ADDRESSES": ",".join(f"localhost:{port}" for port in ports),
        "TPU_PROCESS_PORT": str(ports[rank]),
        "CLOUD_TPU_TASK_ID": str(rank),
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }

"""Each rank gets its TPU chips; folders stand in for hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from procession_xla.hardware import find_tpu_chips
from xla_hosts import CHIPS, IDS, add_tpu, plan, values


@pytest.mark.parametrize("device", CHIPS)
@pytest.mark.parametrize("count", [0, 1, 4, 8])
def test_tpu_chips_are_counted_among_other_devices(count: int, device: str, tmp_path: Path) -> None:
    assert find_tpu_chips(tmp_path) == []
    add_tpu(tmp_path, count, device)
    assert len(find_tpu_chips(tmp_path)) == count


def test_a_host_without_chips_is_refused(tmp_path: Path) -> None:
    add_tpu(tmp_path, 0)
    with pytest.raises(ValueError, match=r"need 1 tpu devices, 0 visible$"):
        plan(tmp_path, platform="tpu")


@pytest.mark.parametrize(
    ("generation", "n", "bounds"),
    [
        ("v3", 4, "2,2,1"),
        ("v4", 4, "2,2,1"),
        ("v5p", 4, "2,2,1"),
        ("v5e", 4, "2,2,1"),
        ("v5e", 8, "2,4,1"),
        ("v6e", 8, "2,4,1"),
        ("v6e", 1, "1,1,1"),
        ("tpu7x", 4, "2,2,1,2"),
    ],
)
def test_chips_are_divided_as_torch_xla_does_itself(
    generation: str, n: int, bounds: str, tmp_path: Path
) -> None:
    add_tpu(tmp_path, n, IDS[generation])
    plans = plan(tmp_path, None, platform="tpu", framework="torch_xla")
    assert len(plans) == n
    addresses = ",".join(f"localhost:{8476 + rank}" for rank in range(n))
    for rank, changes in enumerate(plans):
        assert (
            changes.items()
            >= {
                "PJRT_DEVICE": "TPU",
                "PJRT_LOCAL_PROCESS_RANK": str(rank),
                "PJRT_LOCAL_PROCESS_COUNT": str(n),
                "TPU_PROCESS_BOUNDS": bounds,
                "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
                "TPU_PROCESS_ADDRESSES": addresses,
                "TPU_PROCESS_PORT": str(8476 + rank),
                "TPU_VISIBLE_CHIPS": str(rank),
                "CLOUD_TPU_TASK_ID": str(rank),
            }.items()
        )


@pytest.mark.parametrize(
    ("generation", "chips", "share", "bounds", "own"),
    [
        ("v5e", 1, 1, "1,1,1", "1,1,1"),
        ("v5e", 2, 1, "2,1,1", "1,1,1"),
        ("v5e", 2, 2, "1,1,1", "2,1,1"),
        ("v5p", 2, 1, "1,2,1", "1,1,1"),
        ("tpu8t", 2, 2, "1,1,1", "1,2,1"),
        ("v3", 4, 1, "2,2,1", "1,1,1"),
        ("v4", 4, 2, "2,1,1", "1,2,1"),
        ("tpu7x", 4, 4, "1,1,1", "2,2,1"),
        ("tpu8i", 4, 1, "4,1,1", "1,1,1"),
        ("tpu8i", 4, 2, "2,1,1", "2,1,1"),
        ("tpu8i", 4, 4, "1,1,1", "4,1,1"),
        ("v5e", 8, 1, "4,2,1", "1,1,1"),
        ("v5e", 8, 4, "2,1,1", "2,2,1"),
        ("v5e", 8, 8, "1,1,1", "4,2,1"),
        ("v6e", 8, 1, "2,4,1", "1,1,1"),
        ("v6e", 8, 4, "1,2,1", "2,2,1"),
        ("v6e", 8, 8, "1,1,1", "2,4,1"),
        ("v4", 8, 1, "2,2,2", "1,1,1"),
        ("tpu7x", 8, 4, "1,1,2", "2,2,1"),
        ("v4", 8, 8, "1,1,1", "2,2,2"),
    ],
)
def test_chips_are_divided_as_jax_does_itself(
    generation: str, chips: int, share: int, bounds: str, own: str, tmp_path: Path
) -> None:
    add_tpu(tmp_path, chips, IDS[generation])
    plans = plan(tmp_path, None, platform="tpu", devices_per_rank=share)
    count = chips // share
    assert values(plans, "TPU_PROCESS_BOUNDS") == [bounds] * count
    assert values(plans, "TPU_CHIPS_PER_PROCESS_BOUNDS") == [own] * count
    assert values(plans, "CLOUD_TPU_TASK_ID") == [str(rank) for rank in range(count)]
    assert values(plans, "ALLOW_MULTIPLE_LIBTPU_LOAD") == ["1"] * count
    assert values(plans, "JAX_LOCAL_DEVICE_IDS") == [None] * count
    visible = ",".join(str(changes["TPU_VISIBLE_CHIPS"]) for changes in plans)
    assert visible == ",".join(map(str, range(chips)))


@pytest.mark.parametrize("framework", ["jax", "torch_xla"])
def test_variables_that_a_notebook_has_set_are_replaced(framework: str, tmp_path: Path) -> None:
    add_tpu(tmp_path, 4)
    stale = {
        "TPU_PROCESS_ADDRESSES": "local",
        "TPU_PROCESS_PORT": "1",
        "TPU_PROCESS_BOUNDS": "9,9,9",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "9,9,9",
        "TPU_VISIBLE_CHIPS": "7",
        "CLOUD_TPU_TASK_ID": "7",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "0",
        "JAX_LOCAL_DEVICE_IDS": "7",
    }
    plans = plan(tmp_path, None, stale, platform="tpu", framework=framework)
    assert plans == plan(tmp_path, None, {}, platform="tpu", framework=framework)
    assert all(set(stale) <= set(changes) for changes in plans)
    addresses = "localhost:8476,localhost:8477,localhost:8478,localhost:8479"
    assert values(plans, "TPU_PROCESS_ADDRESSES") == [addresses] * 4


@pytest.mark.parametrize(
    ("given", "bounds"),
    [
        ({"tpu_process_bounds": "4,1,1"}, ("4,1,1", "1,1,1")),
        ({"tpu_chips_per_process_bounds": "1,1,1,1"}, ("2,2,1", "1,1,1,1")),
        (
            {"tpu_process_bounds": "1,4,1", "tpu_chips_per_process_bounds": "1,1,2"},
            ("1,4,1", "1,1,2"),
        ),
    ],
)
def test_options_give_the_bounds(
    given: dict[str, Any], bounds: tuple[str, str], tmp_path: Path
) -> None:
    add_tpu(tmp_path, 4)
    plans = plan(tmp_path, None, platform="tpu", **given)
    assert values(plans, "TPU_PROCESS_BOUNDS") == [bounds[0]] * 4
    assert values(plans, "TPU_CHIPS_PER_PROCESS_BOUNDS") == [bounds[1]] * 4


def test_given_bounds_are_not_extended_for_tpu7x(tmp_path: Path) -> None:
    add_tpu(tmp_path, 4, IDS["tpu7x"])
    options: dict[str, Any] = {
        "platform": "tpu",
        "framework": "torch_xla",
        "tpu_process_bounds": "4,1,1",
    }
    plans = plan(tmp_path, None, **options)
    assert values(plans, "TPU_PROCESS_BOUNDS") == ["4,1,1"] * 4


@pytest.mark.parametrize(
    ("framework", "nprocs", "share"),
    [("jax", 3, 1), ("jax", 4, 2), ("jax", 1, 3), ("torch_xla", 2, 1), ("torch_xla", 2, 4)],
)
def test_a_division_without_known_bounds_is_refused(
    framework: str, nprocs: int, share: int, tmp_path: Path
) -> None:
    add_tpu(tmp_path, 8)
    options: dict[str, Any] = {"framework": framework, "devices_per_rank": share}
    message = f"{framework} has no bounds for {nprocs} processes of {share} TPU chips"
    with pytest.raises(
        ValueError, match=f"{message}; set them by the options tpu_process_bounds and tpu_chips"
    ):
        plan(tmp_path, nprocs, platform="tpu", **options)
    options |= {"tpu_process_bounds": "1,1,8", "tpu_chips_per_process_bounds": "1,8,1"}
    plans = plan(tmp_path, nprocs, platform="tpu", **options)
    assert values(plans, "TPU_PROCESS_BOUNDS") == ["1,1,8"] * nprocs


def test_more_ranks_than_chips_are_refused(tmp_path: Path) -> None:
    add_tpu(tmp_path, 4)
    message = "8 processes x 1 devices need 8 tpu devices, 4 visible"
    with pytest.raises(ValueError, match=message):
        plan(tmp_path, 8, platform="tpu")


def test_the_option_devices_chooses_chips(tmp_path: Path) -> None:
    add_tpu(tmp_path, 8)
    plans = plan(tmp_path, None, platform="tpu", devices=[4, 5, 6, 7])
    assert values(plans, "TPU_VISIBLE_CHIPS") == ["4", "5", "6", "7"]
    assert values(plans, "TPU_PROCESS_BOUNDS") == ["2,2,1"] * 4


@pytest.mark.parametrize("chip", [4, "GPU-a", "4"])
def test_a_missing_chip_is_refused(chip: int | str, tmp_path: Path) -> None:
    add_tpu(tmp_path, 4)
    with pytest.raises(ValueError, match=rf"options\['devices'\].* {chip} "):
        plan(tmp_path, None, platform="tpu", devices=[chip])

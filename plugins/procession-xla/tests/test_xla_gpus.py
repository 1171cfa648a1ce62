"""Each rank gets its GPUs; folders stand in for hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from procession_xla.hardware import find_gpus
from xla_hosts import add_amd, add_nvidia, plan, values


@pytest.mark.parametrize(
    ("nprocs", "share", "needed"), [(3, 1, 3), (4, 2, 8), (1, 3, 3), (None, 3, 3)]
)
def test_too_few_gpus_are_refused(
    nprocs: int | None, share: int, needed: int, tmp_path: Path
) -> None:
    message = f"{nprocs or 1} processes x {share} devices need {needed} cuda devices, 2 visible "
    environ = {"CUDA_VISIBLE_DEVICES": "0,1"}
    with pytest.raises(ValueError, match=rf"'xla': {message}\(CUDA_VISIBLE_DEVICES=0,1\)"):
        plan(tmp_path, nprocs, environ, platform="cuda", devices_per_rank=share)


@pytest.mark.parametrize("listed", ["", "-1", "-1,0"])
@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"])
@pytest.mark.parametrize("nprocs", [None, 1])
def test_a_list_can_hide_all_gpus(
    nprocs: int | None, name: str, listed: str, tmp_path: Path
) -> None:
    add_nvidia(tmp_path, 2)
    add_amd(tmp_path, 2)
    platform = "cuda" if name.startswith("CUDA") else "rocm"
    message = rf"need 1 {platform} devices, 0 visible \({name}={listed}\)"
    with pytest.raises(ValueError, match=message):
        plan(tmp_path, nprocs, {name: listed}, platform=platform)


@pytest.mark.parametrize(
    ("listed", "share", "groups"),
    [
        ("0,1", 1, ["0", "1"]),
        ("3,1,2,0", 1, ["3", "1", "2", "0"]),
        ("3,1,2,0", 2, ["3,1", "2,0"]),
        ("4,5,6", 2, ["4,5"]),
        (" 2, 3 ,", 1, ["2", "3"]),
        ("1,-1,0", 1, ["1"]),
        ("GPU-8932f937-d72c,MIG-64a1", 1, ["GPU-8932f937-d72c", "MIG-64a1"]),
        ("GPU-a,GPU-b,GPU-c,GPU-d", 2, ["GPU-a,GPU-b", "GPU-c,GPU-d"]),
        (None, 1, ["0", "1", "2"]),
        (None, 3, ["0,1,2"]),
    ],
)
@pytest.mark.parametrize("platform", ["cuda", "rocm"])
def test_each_rank_sees_its_part_of_the_callers_list(
    platform: str, listed: str | None, share: int, groups: list[str], tmp_path: Path
) -> None:
    add_nvidia(tmp_path, 3)
    add_amd(tmp_path, 3)
    name, other = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"
    if platform == "rocm":
        name, other = other, name
    environ = {} if listed is None else {name: listed}
    plans = plan(tmp_path, None, environ, platform=platform, devices_per_rank=share)
    assert values(plans, name) == groups
    local = ",".join(map(str, range(share)))
    assert values(plans, "JAX_LOCAL_DEVICE_IDS") == [local] * len(groups)
    assert values(plans, "PJRT_DEVICE") == [platform.upper()] * len(groups)
    assert all(other not in changes for changes in plans)


def test_fewer_ranks_than_gpus_take_the_first(tmp_path: Path) -> None:
    plans = plan(tmp_path, 2, {"CUDA_VISIBLE_DEVICES": "5,6,7"}, platform="cuda")
    assert values(plans, "CUDA_VISIBLE_DEVICES") == ["5", "6"]


@pytest.mark.parametrize(
    ("listed", "devices", "share", "groups"),
    [
        ("4,5,6,7", 2, 1, ["4", "5"]),
        ("4,5,6,7", 4, 2, ["4,5", "6,7"]),
        ("4,5,6,7", [7, 5], 1, ["7", "5"]),
        ("4,5,6,7", ["6", 4, "5"], 2, ["6,4"]),
        ("GPU-a,GPU-b", ["GPU-b"], 1, ["GPU-b"]),
        ("GPU-a,GPU-b", 1, 1, ["GPU-a"]),
        (None, [2, 0], 1, ["2", "0"]),
        (None, ["GPU-b", "GPU-a"], 2, ["GPU-b,GPU-a"]),
    ],
)
def test_the_option_devices_chooses_gpus(
    listed: str | None, devices: Any, share: int, groups: list[str], tmp_path: Path
) -> None:
    add_nvidia(tmp_path, 3)
    environ = {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
    plans = plan(tmp_path, None, environ, platform="cuda", devices=devices, devices_per_rank=share)
    assert values(plans, "CUDA_VISIBLE_DEVICES") == groups


def test_more_ranks_than_chosen_gpus_are_refused(tmp_path: Path) -> None:
    message = r"2 processes x 1 devices need 2 cuda devices, 1 in options\['devices'\]"
    with pytest.raises(ValueError, match=message):
        plan(tmp_path, 2, {"CUDA_VISIBLE_DEVICES": "0,1"}, platform="cuda", devices=[1])


def test_a_number_of_missing_devices_is_refused(tmp_path: Path) -> None:
    message = (
        r"options\['devices'\] is 3, but 2 cuda devices are visible \(CUDA_VISIBLE_DEVICES=0,1\)"
    )
    with pytest.raises(ValueError, match=message):
        plan(tmp_path, 1, {"CUDA_VISIBLE_DEVICES": "0,1"}, platform="cuda", devices=3)


def test_an_index_of_a_missing_device_is_refused(tmp_path: Path) -> None:
    message = r"options\['devices'\]: cuda device 0 is not among \['4', '5'\]"
    with pytest.raises(ValueError, match=message):
        plan(tmp_path, 1, {"CUDA_VISIBLE_DEVICES": "4,5"}, platform="cuda", devices=[4, 0])


@pytest.mark.parametrize("count", [0, 1, 8])
def test_gpus_are_counted(count: int, tmp_path: Path) -> None:
    add_nvidia(tmp_path, count)
    add_amd(tmp_path, count)
    indices = [str(index) for index in range(count)]
    assert find_gpus("cuda", {}, tmp_path) == indices
    assert find_gpus("rocm", {}, tmp_path) == indices


def test_a_host_without_drivers_has_no_gpus(tmp_path: Path) -> None:
    assert find_gpus("cuda", {}, tmp_path) == find_gpus("rocm", {}, tmp_path) == []


@pytest.mark.parametrize(
    ("rocr", "hip", "seen"),
    [
        ("2,3", None, ["0", "1"]),
        ("GPU-a,GPU-b,GPU-c", None, ["0", "1", "2"]),
        ("", None, []),
        ("2,3", "1", ["1"]),
        (None, "3,2", ["3", "2"]),
    ],
)
def test_hip_counts_the_gpus_that_rocr_leaves_visible(
    rocr: str | None, hip: str | None, seen: list[str], tmp_path: Path
) -> None:
    add_amd(tmp_path, 4)
    given = {"ROCR_VISIBLE_DEVICES": rocr, "HIP_VISIBLE_DEVICES": hip}
    environ = {name: value for name, value in given.items() if value is not None}
    assert find_gpus("rocm", environ, tmp_path) == seen
    if seen:
        plans = plan(tmp_path, None, environ, platform="rocm")
        assert values(plans, "HIP_VISIBLE_DEVICES") == seen
        assert all("ROCR_VISIBLE_DEVICES" not in changes for changes in plans)

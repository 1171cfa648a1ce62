"""Each rank gets its environment; folders stand in for hosts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from procession_xla import hardware, plan_environments
from procession_xla.hardware import count_virtual_devices, find_platform
from xla_hosts import FORCE, add_amd, add_nvidia, add_tpu, plan, values

PLUGINS = ("tpu", "cuda", "rocm")
has_plugin_of = hardware.has_plugin  # before a fixture replaces it


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The plugins of JAX that count as installed: a test adds to this list."""
    installed: list[str] = []
    monkeypatch.setattr("procession_xla.hardware.has_plugin", installed.__contains__)
    return installed


def test_the_environment_of_every_rank(tmp_path: Path) -> None:
    first, second = plan(tmp_path, 2, platform="cpu")
    own = {"PJRT_LOCAL_PROCESS_RANK": "0", "JAX_PROCESS_ID": "0"}
    assert first == {
        **own,
        "PJRT_DEVICE": "CPU",
        "PJRT_LOCAL_PROCESS_COUNT": "2",
        "JAX_COORDINATOR_ADDRESS": "127.0.0.1:0",
        "JAX_COORDINATOR_BIND_ADDRESS": "127.0.0.1:0",
        "JAX_NUM_PROCESSES": "2",
        "JAX_LOCAL_DEVICE_IDS": None,
        "JAX_ENABLE_PREEMPTION_SERVICE": "0",
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "CPU_NUM_DEVICES": "1",
        "XLA_FLAGS": f"{FORCE}1",
    }
    assert second == first | dict.fromkeys(own, "1")


def test_a_coordinator_that_is_named_gets_no_bind_address(tmp_path: Path) -> None:
    plans = plan(tmp_path, 2, platform="cpu", coordinator="10.0.0.1:99")
    assert values(plans, "JAX_COORDINATOR_ADDRESS") == ["10.0.0.1:99"] * 2
    assert values(plans, "JAX_COORDINATOR_BIND_ADDRESS") == [None] * 2  # not an outer launch's


def test_an_option_switches_the_preemption_service_on(tmp_path: Path) -> None:
    (changes,) = plan(tmp_path, 1, platform="cpu", preemption_service=True)
    assert changes["JAX_ENABLE_PREEMPTION_SERVICE"] == "1"


@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])
def test_variables_of_torchelastic_are_for_torch_xla_only(platform: str, tmp_path: Path) -> None:
    add_nvidia(tmp_path, 1)
    add_amd(tmp_path, 1)
    add_tpu(tmp_path, 1)
    names = {"TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"}
    (jax,) = plan(tmp_path, 1, platform=platform)
    (torch,) = plan(tmp_path, 1, platform=platform, framework="torch_xla")
    assert not names & set(jax)
    assert set(torch) == set(jax) | names
    assert torch["MASTER_ADDR"] == "127.0.0.1"
    assert torch["PJRT_DEVICE"] == platform.upper()


def test_the_run_id_is_the_same_in_all_ranks(tmp_path: Path) -> None:
    plans = plan(tmp_path, 3, platform="cpu", framework="torch_xla", coordinator="here:7")
    assert values(plans, "TORCHELASTIC_RUN_ID") == ["here:7"] * 3


def test_a_plan_does_not_change_the_environment_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    before = dict(os.environ)
    plans = plan_environments(options={"platform": "cuda"}, root=str(tmp_path))
    assert values(plans, "CUDA_VISIBLE_DEVICES") == ["4", "5"]
    assert dict(os.environ) == before


@pytest.mark.parametrize("nprocs", [0, -1])
@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_a_dry_run_needs_a_rank(platform: str, nprocs: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nprocs"):
        plan(tmp_path, nprocs, {"CUDA_VISIBLE_DEVICES": "0"}, platform=platform)


@pytest.mark.parametrize(
    ("environ", "count"),
    [
        ({}, 1),
        ({"JAX_NUM_CPU_DEVICES": "3", "XLA_FLAGS": f"{FORCE}4", "CPU_NUM_DEVICES": "5"}, 3),
        ({"XLA_FLAGS": f"{FORCE}4", "CPU_NUM_DEVICES": "5"}, 4),
        ({"XLA_FLAGS": f"{FORCE}4 --xla_dump_to=x {FORCE}2"}, 2),
        ({"XLA_FLAGS": "--xla_dump_to=x", "CPU_NUM_DEVICES": "5"}, 5),
        ({"JAX_NUM_CPU_DEVICES": "-1", "CPU_NUM_DEVICES": "2"}, 2),
        ({"JAX_NUM_CPU_DEVICES": "", "XLA_FLAGS": "", "CPU_NUM_DEVICES": "many"}, 1),
        ({"JAX_NUM_CPU_DEVICES": "0"}, 1),
    ],
)
def test_the_environment_gives_the_number_of_cpu_devices(
    environ: dict[str, str], count: int, tmp_path: Path
) -> None:
    assert count_virtual_devices(environ) == count
    plans = plan(tmp_path, None, environ, platform="cpu")
    assert values(plans, "PJRT_LOCAL_PROCESS_COUNT") == [str(count)] * count
    assert values(plans, "JAX_NUM_CPU_DEVICES") == ["1"] * count


@pytest.mark.parametrize(
    ("devices", "share", "ranks"), [(3, 1, 3), (4, 2, 2), (5, 2, 2), (None, 2, 3), (None, 8, 1)]
)
def test_ranks_share_the_cpu_devices(
    devices: int | None, share: int, ranks: int, tmp_path: Path
) -> None:
    environ = {"JAX_NUM_CPU_DEVICES": "6"}
    plans = plan(tmp_path, None, environ, platform="cpu", devices=devices, devices_per_rank=share)
    assert values(plans, "JAX_NUM_CPU_DEVICES") == [str(share)] * ranks
    assert values(plans, "CPU_NUM_DEVICES") == [str(share)] * ranks


def test_there_are_as_many_cpu_devices_as_ranks_need(tmp_path: Path) -> None:
    plans = plan(tmp_path, 5, {"JAX_NUM_CPU_DEVICES": "2"}, platform="cpu", devices_per_rank=3)
    assert values(plans, "JAX_NUM_CPU_DEVICES") == ["3"] * 5


def test_more_ranks_than_cpu_devices_are_refused(tmp_path: Path) -> None:
    message = r"3 processes x 2 devices need 6 cpu devices, 4 in options\['devices'\]"
    with pytest.raises(ValueError, match=message):
        plan(tmp_path, 3, platform="cpu", devices=4, devices_per_rank=2)


def test_the_cpu_devices_must_be_a_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"options\['devices'\] is a number on cpu"):
        plan(tmp_path, 1, platform="cpu", devices=[0])


@pytest.mark.parametrize(
    "own", ["--xla_dump_to=here", f"{FORCE}8", f"--xla_a=1 {FORCE}8 --xla_b=2"]
)
def test_xla_flags_are_extended(own: str, tmp_path: Path) -> None:
    plans = plan(tmp_path, 2, {"XLA_FLAGS": own}, platform="cpu", devices_per_rank=2)
    assert values(plans, "XLA_FLAGS") == [f"{own} {FORCE}2"] * 2


def test_xla_flags_that_name_a_file_are_kept(tmp_path: Path) -> None:
    (changes,) = plan(tmp_path, 1, {"XLA_FLAGS": "/etc/flags"}, platform="cpu")
    assert changes.get("XLA_FLAGS", "/etc/flags") == "/etc/flags"  # XLA aborts: no such file


def test_xla_flags_are_unchanged_on_other_platforms(tmp_path: Path) -> None:
    environ = {"XLA_FLAGS": "--xla_dump_to=here", "CUDA_VISIBLE_DEVICES": "0"}
    (changes,) = plan(tmp_path, 1, environ, platform="cuda")
    assert not {"XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "CPU_NUM_DEVICES"} & set(changes)


@pytest.mark.parametrize(
    ("hosts", "installed", "found"),
    [
        ("tpu cuda rocm", PLUGINS, "tpu"),
        ("cuda rocm", PLUGINS, "cuda"),
        ("rocm", PLUGINS, "rocm"),
        ("", PLUGINS, "cpu"),
        ("tpu cuda rocm", (), "cpu"),
        ("tpu", ("cuda",), "cpu"),
        ("tpu cuda rocm", ("cuda", "rocm"), "cuda"),
        ("tpu cuda rocm", ("rocm",), "rocm"),
        ("cuda", ("tpu", "rocm"), "cpu"),
    ],
)
def test_the_platform_is_one_that_the_host_and_jax_have(
    hosts: str, installed: tuple[str, ...], found: str, plugins: list[str], tmp_path: Path
) -> None:
    plugins.extend(installed)
    for host in hosts.split():
        {"tpu": add_tpu, "cuda": add_nvidia, "rocm": add_amd}[host](tmp_path, 1)
    assert find_platform({}, tmp_path) == found
    (changes,) = plan(tmp_path)
    assert changes["PJRT_DEVICE"] == found.upper()
    assert changes["JAX_PLATFORMS"] == ("cpu" if found == "cpu" else f"{found},cpu")


def test_hidden_gpus_are_no_platform(plugins: list[str], tmp_path: Path) -> None:
    plugins.extend(PLUGINS)
    add_nvidia(tmp_path, 2)
    assert find_platform({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == "cpu"
    assert find_platform({"CUDA_VISIBLE_DEVICES": "1"}, tmp_path) == "cuda"


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({"JAX_PLATFORMS": "cpu"}, "cpu"),
        ({"JAX_PLATFORMS": "cuda,cpu", "PJRT_DEVICE": "CPU"}, "cuda"),
        ({"JAX_PLATFORMS": "rocm"}, "rocm"),
        ({"JAX_PLATFORMS": "", "PJRT_DEVICE": "CUDA"}, "cuda"),
        ({"PJRT_DEVICE": "CPU"}, "cpu"),
        ({"JAX_PLATFORMS": "gpu"}, "cuda"),
        ({"JAX_PLATFORMS": "gpu", "CUDA_VISIBLE_DEVICES": ""}, "rocm"),
        ({"JAX_PLATFORMS": ""}, "tpu"),
    ],
)
def test_the_environment_can_name_the_platform(
    environ: dict[str, str], found: str, plugins: list[str], tmp_path: Path
) -> None:
    plugins.append("tpu")
    add_tpu(tmp_path, 4)
    add_nvidia(tmp_path, 4)
    add_amd(tmp_path, 4)
    assert find_platform(environ, tmp_path) == found
    assert plan(tmp_path, 4, environ)[0]["PJRT_DEVICE"] == found.upper()


@pytest.mark.parametrize("name", ["JAX_PLATFORMS", "PJRT_DEVICE"])
def test_the_error_names_an_unknown_platform(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name}='Neuron': 'xla' knows cpu, gpu, tpu, cuda, rocm"):
        plan(tmp_path, 1, {name: "Neuron"})


@pytest.mark.parametrize("own", ["cpu", "cuda", "cuda,cpu", "gpu"])
def test_jax_platforms_of_the_user_are_kept(own: str, tmp_path: Path) -> None:
    add_nvidia(tmp_path, 1)
    (changes,) = plan(tmp_path, 1, {"JAX_PLATFORMS": own})
    assert "JAX_PLATFORMS" not in changes


@pytest.mark.parametrize(("platform", "expected"), [("cpu", "cpu"), ("cuda", "cuda,cpu")])
def test_the_option_overrides_jax_platforms(platform: str, expected: str, tmp_path: Path) -> None:
    add_nvidia(tmp_path, 1)
    environ = {"JAX_PLATFORMS": "tpu", "PJRT_DEVICE": "TPU"}
    (changes,) = plan(tmp_path, 1, environ, platform=platform)
    assert changes["JAX_PLATFORMS"] == expected
    assert changes["PJRT_DEVICE"] == platform.upper()


def test_plugins_of_jax_are_found_without_an_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jax_plugins" / "xla_cuda13").mkdir(parents=True)
    (tmp_path / "jax_plugins" / "xla_cuda13" / "__init__.py").write_text("raise SystemExit")
    (tmp_path / "libtpu.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [has_plugin_of(each) for each in ("tpu", "cuda", "none")] == [True, True, False]

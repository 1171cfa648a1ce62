"""Ranks are connected, and together compute the result of one process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import xla_ranks
from procession import run
from xla_scripts import execute, on_each_base

CPU = {"platform": "cpu", "distributed": True}
EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


def expect(nprocs: int, devices: int = 1) -> list[xla_ranks.Seen]:
    """Return what the ranks of a launch must see."""
    total = nprocs * devices
    sums = sum(range(1, total + 1))
    gathered = [float(rank + 1) for rank in range(nprocs)]
    return [xla_ranks.Seen(rank, nprocs, devices, total, sums, gathered) for rank in range(nprocs)]


@on_each_base
@pytest.mark.parametrize(("nprocs", "devices"), [(1, 1), (2, 1), (2, 2), (4, 1)])
def test_psum_and_all_gather_are_exact(base: str, nprocs: int, devices: int) -> None:
    options = {**CPU, "base": base, "devices_per_rank": devices}
    seen = run(xla_ranks.see, nprocs=nprocs, start_method="xla", options=options, timeout=60)
    assert seen == expect(nprocs, devices)


@on_each_base
@pytest.mark.parametrize("fn", [xla_ranks.initialize_and_see, xla_ranks.connect_and_see])
def test_fn_can_connect_its_rank(base: str, fn: Any) -> None:
    options = {"platform": "cpu", "base": base}
    assert run(fn, nprocs=2, start_method="xla", options=options, timeout=60) == expect(2)


CLUSTERS = {
    "Slurm": {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "elsewhere",
        "SLURM_NTASKS": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    },
    "Open MPI": {
        "OMPI_MCA_orte_hnp_uri": "7.0;tcp://10.0.0.1:1",
        "OMPI_COMM_WORLD_SIZE": "1",
        "OMPI_COMM_WORLD_RANK": "0",
        "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    },
}


@on_each_base
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_variables_of_an_outer_cluster_are_ignored(
    base: str, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CLUSTERS[cluster].items():
        monkeypatch.setenv(name, value)
    fn: Any = xla_ranks.initialize_and_see
    options = {"platform": "cpu", "base": base}
    assert run(fn, nprocs=2, start_method="xla", options=options, timeout=60) == expect(2)


@pytest.mark.parametrize(("nprocs", "devices"), [(2, 1), (4, 1), (2, 2)])
def test_training_equals_that_of_one_process(
    monkeypatch: pytest.MonkeyPatch, nprocs: int, devices: int
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    numpy: Any = pytest.importorskip("numpy")
    import train_digits_xla

    [(alone, _)] = train_digits_xla.launch(1, steps=20)
    for weights, right in train_digits_xla.launch(nprocs, devices, steps=20):
        assert right > 0.7
        for name in alone:
            numpy.testing.assert_allclose(weights[name], alone[name], rtol=0, atol=1e-6)


def test_the_example_runs_as_a_script() -> None:
    command = [sys.executable, str(EXAMPLES / "train_digits_xla.py"), "2", "2"]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=90)
    assert re.search(r"2 ranks of 2 devices: 9\d\.\d% of 1792 right$", ended.stdout.strip())


DEVICES_OF_MAIN = """
    import jax
    {more}

    def count(rank):
        return jax.local_device_count(), jax.process_count()

    if __name__ == "__main__":
        from procession import run
        options = {{"platform": "cpu", "base": "{base}", "devices_per_rank": 3, "distributed": True}}
        tell(run(count, nprocs=2, start_method="xla", options=options, timeout=60))
    """


@on_each_base
def test_a_main_module_that_imports_jax_sees_its_devices(base: str, tmp_path: Path) -> None:
    assert execute(tmp_path, DEVICES_OF_MAIN.format(base=base, more="")) == "[(3, 2), (3, 2)]\n"


@pytest.mark.parametrize("base", ["forkserver", "spawn"])
def test_a_main_module_can_use_jax_when_it_is_imported(base: str, tmp_path: Path) -> None:
    text = DEVICES_OF_MAIN.format(base=base, more="import jax.numpy as jnp; zeros = jnp.zeros(3)")
    assert execute(tmp_path, text) == "[(3, 2), (3, 2)]\n"


@on_each_base
def test_flags_of_the_environment_reach_jax(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the ranks of a forkserver, which had imported JAX before."""
    fn: Any = xla_ranks.see_precision
    options = {"platform": "cpu", "base": base}
    seen = [run(fn, start_method="xla", options=options, env={"JAX_ENABLE_X64": x}) for x in "10"]
    assert seen == [["float64"], ["float32"]]


def test_a_flag_that_is_set_later_reaches_ranks_of_the_forkserver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fn: Any = xla_ranks.see_precision
    assert run(fn, start_method="xla", options={"platform": "cpu"}) == ["float32"]
    monkeypatch.setenv("JAX_ENABLE_X64", "true")
    assert run(fn, start_method="xla", options={"platform": "cpu"}) == ["float64"]


@on_each_base
def test_variables_that_jax_adds_are_in_the_environment_of_ranks(base: str) -> None:
    """Even in ranks of a forkserver, which have the environment of their caller and do not import JAX."""
    names = ("TF_CPP_MIN_LOG_LEVEL", "TPU_SKIP_MDS_QUERY")
    seen = run(
        xla_ranks.read_after_import,
        names,
        start_method="xla",
        options={"platform": "cpu", "base": base},
        env={"TPU_SKIP_MDS_QUERY": None},
    )
    assert seen == [["1", "1"]]
    env = {"TF_CPP_MIN_LOG_LEVEL": "2"}
    options = {"platform": "cpu", "base": base}
    seen = run(xla_ranks.read_after_import, names, start_method="xla", options=options, env=env)
    assert seen == [["2", "1"]]


def test_nprocs_none_is_the_number_of_devices() -> None:
    options = {**CPU, "devices": 4, "devices_per_rank": 2}
    seen = run(xla_ranks.see, nprocs=None, start_method="xla", options=options, timeout=60)
    assert seen == expect(2, 2)


def test_many_simultaneous_launches_return_the_right_results() -> None:
    from concurrent.futures import ThreadPoolExecutor

    def launch(_: int) -> bool:
        seen = run(xla_ranks.see, nprocs=2, start_method="xla", options=CPU, timeout=120)
        return seen == expect(2)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(launch, range(12)))


def test_the_caller_imports_no_jax(tmp_path: Path) -> None:
    text = """
        import sys
        import xla_ranks
        from procession import run

        options = {"platform": "cpu", "distributed": True}
        run(xla_ranks.see, nprocs=2, start_method="xla", options=options, timeout=60)
        tell("jax" in sys.modules)
        """
    assert execute(tmp_path, text) == "False\n"


def test_a_rank_without_jax_does_not_import_it() -> None:
    names = ("jax", "numpy")
    for base, imported in (("spawn", False), ("forkserver", True)):
        options = {"platform": "cpu", "base": base}
        seen = run(xla_ranks.see_modules, names, start_method="xla", options=options)
        assert seen == [[imported] * 2], sys.version

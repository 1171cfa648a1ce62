"""Uses of JAX in the caller or the forkserver that would make a rank hang are refused before the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import procession_xla
import xla_ranks
from procession import ProcessRaisedException, run
from procession_xla.backend import XlaBackend
from xla_scripts import execute

CPU = {"platform": "cpu", "distributed": True}

AFTER_USE = """
    import jax
    import xla_ranks
    from procession import UnsafeForkError, run

    jax.devices()
    options = {{"platform": "cpu", "distributed": True, "base": "{base}"}}
    try:
        tell(run(xla_ranks.see, nprocs=2, start_method="xla", options=options, timeout=60)[1].total)
    except UnsafeForkError as error:
        tell(*error.reasons, *getattr(error, "__notes__", []))
    """


def test_a_caller_that_has_used_jax_cannot_be_forked(tmp_path: Path) -> None:
    message = execute(tmp_path, AFTER_USE.format(base="fork"))
    assert message.startswith("XLA is initialised in this process (jax): ")
    assert "because of options={'base': 'fork'}; 'forkserver'" in message


@pytest.mark.parametrize("base", ["forkserver", "spawn"])
def test_a_caller_that_has_used_jax_can_start_ranks_without_fork(base: str, tmp_path: Path) -> None:
    assert execute(tmp_path, AFTER_USE.format(base=base)) == "3.0\n"


def test_a_caller_that_has_imported_jax_can_be_forked(tmp_path: Path) -> None:
    text = AFTER_USE.format(base="fork").replace("jax.devices()", "")
    assert execute(tmp_path, text) == "3.0\n"


def test_a_caller_that_holds_the_tpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    start_as_if_initialised(monkeypatch)
    options = {"platform": "tpu", "devices": ["0"]}
    monkeypatch.setattr("procession_xla.plan.find_devices", lambda *_: ["0"])
    with pytest.raises(RuntimeError, match="holds the TPU chips: no rank can open them"):
        run(abs, start_method="xla", options=options)


def test_a_caller_that_holds_gpu_memory_is_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    start_as_if_initialised(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    options = {"platform": "cuda", "distributed": False}
    with pytest.warns(RuntimeWarning, match="XLA_PYTHON_CLIENT_PREALLOCATE=false"):
        run(abs, start_method="xla", options=options)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    run(abs, start_method="xla", options=options)


def test_a_platform_that_jax_cannot_use_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX would use the CPU without a message."""
    monkeypatch.setattr("procession_xla.backend.has_plugin", lambda _: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ValueError, match=r"no plugin for 'cuda' here: pip install 'jax\[cuda13\]'"):
        run(abs, start_method="xla", options={"platform": "cuda"})


def start_as_if_initialised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process look as if it had used an accelerator, which this machine lacks."""
    monkeypatch.setattr("procession_xla.backend.has_plugin", lambda _: True)
    monkeypatch.setattr("procession_xla.backend.find_initialised", lambda: {"XLA": ["jax"]})


def test_a_preload_that_uses_jax_is_an_error_and_no_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uses_jax.py").write_text("import jax.numpy as jnp\nzeros = jnp.zeros(3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {**CPU, "preload": ["uses_jax"]}
    with pytest.raises(ProcessRaisedException, match=r"Remove it from options\['preload'\]"):
        run(xla_ranks.see, nprocs=2, start_method="xla", options=options, timeout=30)


def test_the_server_imports_preload() -> None:
    options = {"platform": "cpu", "preload": ["wave"]}
    names = ("wave", "procession_xla.preloaded")
    assert run(xla_ranks.see_modules, names, start_method="xla", options=options) == [[True] * 2]


def test_initialize_is_refused_outside_ranks() -> None:
    with pytest.raises(RuntimeError, match="is for ranks of start_method='xla' on JAX"):
        procession_xla.initialize()


def test_torch_xla_gets_variables_and_no_jax() -> None:
    options = {"platform": "cpu", "framework": "torch_xla"}
    names = ("PJRT_DEVICE", "PJRT_LOCAL_PROCESS_RANK", "PJRT_LOCAL_PROCESS_COUNT", "RANK")
    seen = run(read_environment, (names, True), 2, start_method="xla", options=options)
    assert seen == [["CPU", str(rank), "2", str(rank)] for rank in range(2)]


def read_environment(rank: int, names: tuple[str, ...], torch: bool) -> list[str]:
    import os
    import sys

    assert ("TORCHELASTIC_RUN_ID" in os.environ) == torch
    assert int(os.environ["MASTER_PORT"]) > 0
    assert "jax" not in sys.modules
    return [os.environ[name] for name in names]


def test_xla_flags_of_env_are_extended() -> None:
    fn: Any = read_flags
    env = {"XLA_FLAGS": "--xla_cpu_enable_fast_math=false"}
    seen = run(fn, start_method="xla", options={"platform": "cpu", "devices_per_rank": 2}, env=env)
    assert seen == [
        ("--xla_cpu_enable_fast_math=false --xla_force_host_platform_device_count=2", 2)
    ]


def read_flags(rank: int) -> tuple[str, int]:
    import os

    return os.environ["XLA_FLAGS"], xla_ranks.count_local_devices(rank)


def test_too_few_devices_are_refused_before_any_rank_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setattr("procession_xla.backend._start_ranks", None)
    options = {"platform": "cuda", "devices_per_rank": 2}
    message = (
        r"4 processes x 2 devices need 8 cuda devices, 4 visible \(CUDA_VISIBLE_DEVICES=0,1,2,3\)"
    )
    with pytest.raises(ValueError, match=message):
        run(abs, nprocs=4, start_method="xla", options=options)


def test_the_error_without_jax_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert XlaBackend().availability().hint == "pip install jax"

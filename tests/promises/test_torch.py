"""Tensors travel to and from ranks, and our functions can replace those of torch.multiprocessing."""

from __future__ import annotations

from typing import Any

import pytest

from procession import ProcessRaisedException, run, start_processes

torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")


def test_tensors_in_args_arrive(start_method: str) -> None:
    tensor = torch.arange(12.0).reshape(3, 4)
    assert run(total, (tensor, {"nested": [tensor]}), 2, start_method=start_method) == [132.0] * 2


def total(rank: int, tensor: Any, nested: dict[str, list[Any]]) -> float:
    return float(tensor.sum() + nested["nested"][0].sum())


def test_the_caller_sees_what_ranks_write_to_a_shared_tensor(start_method: str) -> None:
    tensor = torch.zeros(4)
    tensor.share_memory_()
    start_processes(write_own_place, (tensor,), 4, start_method=start_method)
    assert tensor.tolist() == [1.0, 2.0, 3.0, 4.0]


def write_own_place(rank: int, tensor: Any) -> None:
    tensor[rank] = rank + 1


def test_tensors_come_back_as_results(start_method: str) -> None:
    first, second = run(make, nprocs=2, start_method=start_method)
    assert (first.tolist(), second.tolist()) == ([0.0, 0.0], [1.0, 1.0])


def make(rank: int) -> Any:
    return torch.full((2,), float(rank))


def test_our_functions_replace_those_of_torch_multiprocessing(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch.multiprocessing as mp

    import procession

    for name in ("start_processes", "spawn", "ProcessContext", "ProcessRaisedException"):
        monkeypatch.setattr(mp, name, getattr(procession, name))
    queue = mp.get_context(start_method).SimpleQueue()
    context = mp.start_processes(
        fn=put_tensor, args=(queue,), nprocs=2, join=False, start_method=start_method
    )
    received = sorted(queue.get() for _ in range(2))
    while not context.wait(-1):
        pass
    assert received == [0, 1]
    with pytest.raises(mp.ProcessRaisedException, match="boom"):
        mp.start_processes(fail, nprocs=2, start_method=start_method)
    queue.close()


def put_tensor(rank: int, queue: Any) -> None:
    queue.put(int(torch.tensor(rank)))


def fail(rank: int) -> None:
    raise ValueError("boom")


def test_collectives_of_gloo_work(start_method: str, tmp_path: Any) -> None:
    store = f"file://{tmp_path}/store"
    assert run(all_reduce, (store,), 2, start_method=start_method) == [3.0, 3.0]


def all_reduce(rank: int, store: str) -> float:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    tensor = torch.tensor([float(rank + 1)])
    dist.all_reduce(tensor)
    dist.destroy_process_group()
    return float(tensor)


def test_failures_have_their_cause_with_torch_imported(start_method: str) -> None:
    with pytest.raises(ProcessRaisedException, match="boom") as caught:
        start_processes(fail, nprocs=2, start_method=start_method)
    assert caught.value.failures[0].traceback.endswith("ValueError: boom\n")

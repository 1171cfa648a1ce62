"""fn and args travel to ranks: pickled once, with descriptors beside the pickle, by name or by value."""

from __future__ import annotations

import functools
import multiprocessing
import os
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import Any

import pytest

import ranks
from procession import get_context, run, start_processes
from procession.testing import introspect
from scripts import PROGRAMS, run_program, start

BY_PICKLE = pytest.mark.parametrize("start_method", ["spawn", "forkserver"])


def test_queues_locks_events_and_pipes_travel(start_method: str) -> None:
    context = get_context(start_method)
    queue, lock, event = context.Queue(), context.Lock(), context.Event()
    reader, writer = context.Pipe(duplex=False)
    value = context.Value("i", 0)
    start_processes(use_all, (queue, lock, event, writer, value), 3, start_method=start_method)
    assert sorted(queue.get() for _ in range(3)) == [0, 1, 2]
    assert sorted(reader.recv() for _ in range(3)) == [0, 1, 2]
    assert event.is_set()
    assert value.value == 3
    queue.close()
    queue.join_thread()
    for end in (reader, writer):
        end.close()


def use_all(rank: int, queue: Any, lock: Any, event: Any, writer: Any, value: Any) -> None:
    queue.put(rank)
    with lock:
        writer.send(rank)
        value.value += 1
    event.set()


def test_two_connections_to_one_pipe_can_be_closed_separately(start_method: str) -> None:
    reader, writer = get_context(start_method).Pipe(duplex=False)
    twin = multiprocessing.connection.Connection(os.dup(writer.fileno()), readable=False)
    start_processes(send_on_both, (writer, twin), 2, start_method=start_method)
    assert sorted(reader.recv() for _ in range(4)) == ["one", "one", "two", "two"]
    for end in (reader, writer, twin):
        end.close()


def send_on_both(rank: int, one: Any, two: Any) -> None:
    one.send("one")
    one.close()
    two.send("two")
    two.close()


def test_many_descriptors_travel(start_method: str) -> None:
    """One message takes 253 descriptors (SCM_MAX_FD, unix(7)), and there are more."""
    pipes = [os.pipe() for _ in range(150)]
    ends = [
        multiprocessing.connection.Connection(fd, readable=fd == read, writable=fd != read)
        for read, write in pipes
        for fd in (read, write)
    ]
    assert run(send_to_itself, (ends,), start_method=start_method) == [150]
    for end in ends:
        end.close()


def send_to_itself(rank: int, ends: list[Any]) -> int:
    for reader, writer in zip(ends[::2], ends[1::2], strict=True):
        writer.send(rank)
        assert reader.recv() == rank
    return len(ends) // 2


@BY_PICKLE
def test_fn_and_args_are_pickled_once(start_method: str) -> None:
    counted = Counted()
    assert run(ranks.give, (counted,), 4, start_method=start_method)
    assert Counted.pickled == 1
    Counted.pickled = 0


class Counted:
    """Counts how often it is pickled in this process."""

    pickled = 0

    def __reduce__(self) -> Any:
        type(self).pickled += 1
        return int, ()


@pytest.mark.parametrize("kind", ["partial", "method", "callable", "class"])
def test_fn_may_be_any_callable(start_method: str, kind: str) -> None:
    functions: dict[str, Any] = {
        "partial": functools.partial(ranks.give, 7),
        "method": Callable(7).method,
        "callable": Callable(7),
        "class": Callable,
    }
    results = run(functions[kind], nprocs=2, start_method=start_method)
    if kind == "class":
        assert [one.value for one in results] == [0, 1]
    elif kind == "partial":
        assert results == [(7, 0), (7, 1)]
    else:
        assert results == [7, 8]


class Callable:
    def __init__(self, value: int) -> None:
        self.value = value

    def method(self, rank: int) -> int:
        return self.value + rank

    __call__ = method


def test_large_arguments_arrive_whole(start_method: str) -> None:
    data = os.urandom(1 << 20) * 24
    assert (
        run(measure, (data, {"nested": [data]}), 2, start_method=start_method)
        == [(hash_of(data), True)] * 2
    )


def measure(rank: int, data: bytes, nested: dict[str, list[bytes]]) -> tuple[str, bool]:
    return hash_of(data), nested["nested"][0] == data


def hash_of(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def test_arrays_travel(start_method: str) -> None:
    numpy = pytest.importorskip("numpy", reason="pip install numpy")
    array = numpy.arange(100_000, dtype="float64").reshape(100, -1)
    for sums in run(sum_and_change, (array,), 2, start_method=start_method):
        assert sums == array.sum()
    assert array[0, 0] == 0  # what a rank writes stays in that rank


def sum_and_change(rank: int, array: Any) -> float:
    total = float(array.sum())
    array[0, 0] = 5
    return total


def test_shared_memory_made_in_a_rank_outlives_it(start_method: str) -> None:
    get_context(start_method).Lock()  # starts the resource tracker, which ranks then use as well
    (name,) = run(make_shared, start_method=start_method)
    memory: Any = shared_memory.SharedMemory(name)
    assert bytes(memory.buf[:5]) == b"alive"
    memory.close()
    memory.unlink()


def make_shared(rank: int) -> str:
    memory: Any = shared_memory.SharedMemory(create=True, size=5)
    memory.buf[:5] = b"alive"
    memory.close()
    return str(memory.name)


def test_shared_memory_of_a_failed_rank_is_freed_where_its_caller_has_no_tracker(
    tmp_path: Path,
) -> None:
    done = run_program("makes_shared_memory_and_fails.py", cwd=tmp_path)
    assert done.stdout.splitlines() == ["ValueError: boom", "False"]


def test_the_resource_tracker_has_the_private_names_that_the_core_uses() -> None:
    """`_rank.identity` and `_launch.forking` use them; later Pythons have changed some."""
    tracker: Any = resource_tracker._resource_tracker
    assert {"_fd", "_pid"} <= vars(tracker).keys()
    if hasattr(tracker, "_ensure_running_and_write"):  # seen in 3.14.10 and 3.15.2
        assert callable(tracker._launch)  # there `register` does not call `ensure_running`
    else:
        assert callable(tracker.ensure_running)
    # there, too, the child of a plain fork closes the descriptor, unless `_fork_intent.preserve_fd`
    assert hasattr(resource_tracker, "_fork_intent") == hasattr(tracker, "_after_fork_in_child")


def test_a_plain_fork_in_a_rank_treats_the_resource_tracker_as_python_does(
    start_method: str,
) -> None:
    get_context(start_method).Lock()
    closes = hasattr(resource_tracker, "_fork_intent")
    assert run(fork_plainly, nprocs=1, start_method=start_method) == [closes]
    assert not getattr(getattr(resource_tracker, "_fork_intent", None), "preserve_fd", False)


def fork_plainly(rank: int) -> bool:
    """Return whether the child of a rank has closed the resource tracker's descriptor."""
    tracker: Any = resource_tracker._resource_tracker
    assert tracker._fd is not None
    pid = os.fork()
    if pid == 0:
        os._exit(tracker._fd is None)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_the_main_module_is_imported_only_where_it_is_needed(
    start_method: str,
) -> None:
    done = run_program("says_where_it_is_imported.py", start_method)
    expected = ["8", "imported __main__"]
    if start_method != "fork":
        expected.append("imported __mp_main__")
    assert sorted(done.stdout.splitlines()) == sorted(expected)


def test_objects_that_go_by_value_come_back_with_their_class(
    start_method: str, tmp_path: Path
) -> None:
    pytest.importorskip("cloudpickle", reason="pip install cloudpickle")
    text = (PROGRAMS / "fails_in_a_cell.py").read_text()
    done = start(tmp_path, "-c", text, start_method)
    assert done.returncode == 0, done.stderr
    assert 'File "<cell 1>", line 2, in fail' in done.stdout
    assert "# marked" in done.stdout  # the traceback shows a line that no file holds


BY_VALUE_WITH_A_PIPE = """
from procession import get_context, run
ours, theirs = get_context("{method}").Pipe()
run(lambda rank, end: end.send("from a lambda"), (theirs,), start_method="{method}")
print(ours.recv())
"""


def test_a_connection_travels_with_a_function_by_value(start_method: str, tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle", reason="pip install cloudpickle")
    done = start(tmp_path, "-c", BY_VALUE_WITH_A_PIPE.replace("{method}", start_method))
    assert done.stdout == "from a lambda\n", done.stderr


def test_ranks_have_the_callers_import_path(
    start_method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def tell(rank):\n    return 'found'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here  # type: ignore[import-not-found]

    assert run(only_here.tell, start_method=start_method) == ["found"]


@pytest.mark.parametrize("start_method", ["forkserver"])
def test_a_forkserver_imports_the_modules_of_the_option_preload(start_method: str) -> None:
    (modules,) = run(ranks.see_modules, start_method=start_method, options={"preload": ["wave"]})
    assert "wave" in modules
    with pytest.warns(RuntimeWarning, match="cannot import no_such_module"):
        run(ranks.see_modules, start_method=start_method, options={"preload": ["no_such_module"]})
    with pytest.raises(TypeError, match="must be a list of module names"):
        run(ranks.see_modules, start_method=start_method, options={"preload": "wave"})
    with pytest.raises(TypeError, match="must be a list of module names"):
        run(ranks.see_modules, start_method=start_method, options={"preload": 5})


@pytest.mark.usefixtures("no_servers")
def test_servers_are_kept_by_configuration_and_replaced_when_dead() -> None:
    run(os.getpgid, start_method="forkserver")
    first = introspect.list_servers()
    run(os.getpgid, start_method="forkserver")
    assert introspect.list_servers() == first
    run(ranks.nothing, start_method="forkserver")
    servers = introspect.list_servers()
    assert len(servers) == len(first) + 1
    for server in servers:
        assert server.process is not None
        server.process.kill()
        server.process.join()
    assert run(ranks.give, nprocs=2, start_method="forkserver") == [(0,), (1,)]

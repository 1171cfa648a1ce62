"""Large buffers travel beside the pickle; ranks share one copy, and a rank that writes gets its own."""

from __future__ import annotations

import array
import importlib
import os
import re
from pathlib import Path
from typing import Any

import pytest

import ranks
from procession import (
    ProcessExitedException,
    ProcessRaisedException,
    get_context,
    run,
    start_processes,
)
from procession._launch import starting
from procession._launch.payload_file import OUT_OF_BAND, PayloadFile
from procession.protocol import Started

BY_PICKLE = pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
SIZES = pytest.mark.parametrize("size", [16, OUT_OF_BAND - 8, OUT_OF_BAND, 3 * OUT_OF_BAND + 8])

MANY = bytes(range(256)) * 4096
"""A mebibyte."""


def describe_and_write(rank: int, value: Any) -> tuple[str, bytes]:
    """Return the type and the content of a value; write to it if it is writable."""
    view = memoryview(value)
    content = view.tobytes()
    if not view.readonly and view.nbytes:
        memoryview(value).cast("B")[0] = 7 + rank
        assert memoryview(value).tobytes() == bytes([7 + rank]) + content[1:]
    return type(value).__name__, content


@SIZES
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, array.array])
def test_objects_with_a_buffer_travel(start_method: str, kind: Any, size: int) -> None:
    content = MANY[:size]
    made: dict[Any, Any] = {
        bytes: content,
        bytearray: bytearray(content),
        memoryview: memoryview(bytearray(content)),
        array.array: array.array("i", content),
    }
    own = made[kind]
    seen = run(describe_and_write, (own,), 2, start_method=start_method)
    assert seen == [(kind.__name__, content)] * 2  # no rank sees what the other wrote
    assert memoryview(own).tobytes() == content


@BY_PICKLE
@pytest.mark.parametrize(
    "view",
    [
        memoryview(MANY),
        memoryview(MANY)[::3],
        memoryview(bytearray(MANY))[::-1],
        memoryview(MANY).cast("d"),
        memoryview(bytearray(MANY)).cast("H", (2, 64, 4096)),
        memoryview(b""),
        memoryview(bytearray()).cast("q"),
    ],
    ids=["whole", "every third", "reversed", "doubles", "three dimensions", "empty", "empty of q"],
)
def test_views_keep_format_shape_and_writability(start_method: str, view: memoryview) -> None:
    (seen,) = run(describe, (view,), start_method=start_method)
    assert seen == describe(0, view)


def describe(rank: int, view: memoryview) -> tuple[Any, ...]:
    return view.format, view.shape, view.readonly, view.tobytes()


@BY_PICKLE
def test_a_view_that_no_rank_could_rebuild_is_refused_before_anything_starts(
    start_method: str,
) -> None:
    numpy = pytest.importorskip("numpy", reason="pip install numpy")
    view = memoryview(numpy.zeros(3, dtype=[("a", "i4"), ("b", "f8")]))
    with pytest.raises(ValueError, match="destination format") as caught:
        start_processes(describe_and_write, (view,), start_method=start_method)
    texts = [str(caught.value), *ranks.notes_on(caught.value)]
    assert "args[0] (memoryview) cannot be pickled" in "\n".join(texts)


def test_numpy_arrays_keep_shape_type_order_and_writability(start_method: str) -> None:
    numpy = pytest.importorskip("numpy", reason="pip install numpy")
    plain = numpy.arange(100_000, dtype="float64").reshape(100, -1)
    locked = plain.copy()
    locked.flags.writeable = False
    several = {
        "plain": plain,
        "fortran": numpy.asfortranarray(plain),
        "strided": plain[::2, ::3],
        "locked": locked,
        "objects": numpy.array([None, "text", 5], dtype=object),
        "records": numpy.zeros(20_000, dtype=[("a", "i4"), ("b", "f8")]),
        "scalar": numpy.array(5.0),
    }
    for seen in run(flags_of, (several,), 2, start_method=start_method):
        assert seen == flags_of(0, several)


def flags_of(rank: int, arrays: dict[str, Any]) -> dict[str, Any]:
    return {
        name: (one.shape, str(one.dtype), one.flags.writeable, one.flags.f_contiguous, one.tolist())
        for name, one in arrays.items()
        if name != "records"
    } | {"records": (arrays["records"].nbytes, int(arrays["records"]["a"].sum()))}


def test_pyarrow_tables_travel(start_method: str) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pip install pyarrow")
    table = pyarrow.table({"number": range(50_000), "text": [str(n) for n in range(50_000)]})
    assert run(sum_column, (table,), 2, start_method=start_method) == [sum(range(50_000))] * 2


def sum_column(rank: int, table: Any) -> int:
    return sum(table["number"].to_pylist())


class Holder:
    """A user's object with a buffer, a queue and a lock in containers."""

    def __init__(self, context: Any, content: bytearray) -> None:
        self.parts = [{"content": content}, (context.Lock(), context.Queue())]


def test_buffers_travel_with_queues_and_locks_in_containers(start_method: str) -> None:
    content = bytearray(MANY)
    holder = Holder(get_context(start_method), content)
    view = memoryview(content)
    start_processes(use_holder, (holder, {"nested": [view, view]}), 2, start_method=start_method)
    queue: Any = holder.parts[1][1]  # type: ignore[index]
    assert sorted(queue.get() for _ in range(2)) == [0, 1]
    assert content == MANY
    queue.close()
    queue.join_thread()
    view.release()
    content.append(1)  # a BufferError if something still holds it


def use_holder(rank: int, holder: Any, nested: dict[str, list[memoryview]]) -> None:
    one, two = nested["nested"]
    assert one is two
    assert one == holder.parts[0]["content"] == MANY
    one[0] = 5
    assert two[0] == 5
    lock, queue = holder.parts[1]
    with lock:
        queue.put(rank)


@BY_PICKLE
def test_all_ranks_share_one_copy_as_long_as_they_only_read(start_method: str) -> None:
    content = array.array("d", bytes(64 << 20))
    view = memoryview(content)
    meeting = get_context(start_method).Barrier(4)
    sizes = run(weigh, (view, meeting), 4, start_method=start_method)
    assert 0.9 * view.nbytes < sum(sizes) < 1.1 * view.nbytes


def weigh(rank: int, view: memoryview, meeting: Any) -> int:
    """Return this rank's share of the memory for the view, while the other ranks use the view as well."""
    before = own_memory()
    assert not any(view[:: 4096 // view.itemsize])
    meeting.wait()
    after = own_memory()
    meeting.wait()
    return after - before


def own_memory() -> int:
    """Return the bytes that this process uses, shared pages divided among their users."""
    text = Path("/proc/self/smaps_rollup").read_text()
    (size,) = re.findall(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(size) * 1024


@BY_PICKLE
@pytest.mark.parametrize(("size", "held"), [(100, 0), (len(MANY), 1)])
def test_only_ranks_that_map_the_payload_file_keep_it_open(
    start_method: str, size: int, held: int
) -> None:
    arguments = (memoryview(MANY)[:size],)
    with start_processes(
        look, arguments, 2, join=False, collect_results=True, start_method=start_method
    ) as context:
        assert payload_files() == []
        assert context.results() == [held, held]


def look(rank: int, view: memoryview) -> int:
    return len(payload_files())  # a mapping keeps a descriptor open


def payload_files() -> list[str]:
    """Return the payload files that this process has open."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:  # of the listing itself
            continue
    return [one for one in links if "procession-payload" in one]


@BY_PICKLE
def test_a_copy_that_fails_leaves_no_rank(
    start_method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(file: PayloadFile) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PayloadFile, "fill", fail)
    mark = tmp_path / "ran"
    with pytest.raises(OSError, match="No space left") as caught:
        start_processes(touch, (memoryview(MANY), str(mark)), 3, start_method=start_method)
    texts = [str(caught.value), *ranks.notes_on(caught.value)]
    assert "while copying the buffers in args into memory" in "\n".join(texts)
    assert not mark.exists()


def touch(rank: int, view: memoryview, path: str) -> None:
    Path(path).touch()


@BY_PICKLE
def test_a_rank_that_dies_while_the_buffers_are_copied_is_reported(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = {"spawn": "procession.commands", "forkserver": "procession.backends.forkserver"}
    module = importlib.import_module(modules[start_method])

    def hand_over(file: PayloadFile, started: Started) -> Started:
        process = started.processes[0]
        process.kill()
        process.join(10)
        return starting.hand_over(file, started)

    monkeypatch.setattr(module, "hand_over", hand_over)
    with pytest.raises(ProcessExitedException, match="process 0 terminated with signal SIGKILL"):
        start_processes(describe_and_write, (memoryview(MANY),), 2, start_method=start_method)


@BY_PICKLE
def test_an_object_that_a_rank_cannot_unpickle_is_reported_with_the_cause(
    start_method: str,
) -> None:
    with pytest.raises(ProcessRaisedException, match="ValueError: not in this rank"):
        start_processes(
            describe_and_write, (Stubborn(), memoryview(MANY)), 2, start_method=start_method
        )


class Stubborn:
    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> None:
    raise ValueError("not in this rank")


@BY_PICKLE
def test_a_large_object_without_buffers_arrives(start_method: str) -> None:
    numbers = dict.fromkeys(range(300_000))
    assert run(count, (numbers,), 2, start_method=start_method) == [300_000] * 2


def count(rank: int, numbers: dict[int, None]) -> int:
    return len(numbers)

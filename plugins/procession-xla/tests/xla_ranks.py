"""Functions of the ranks in the tests; they import JAX only in a rank."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Seen(NamedTuple):
    """What a rank sees of JAX's distributed runtime."""

    process: int
    processes: int
    local_devices: int
    devices: int
    total: float
    gathered: list[float]


def see(rank: int) -> Seen:
    """Return what this rank sees, after a psum and an all-gather over all devices."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import multihost_utils

    gathered = multihost_utils.process_allgather(jnp.full((), float(rank + 1)))
    return Seen(
        jax.process_index(),
        jax.process_count(),
        jax.local_device_count(),
        jax.device_count(),
        psum(),
        [float(one) for one in gathered.ravel()],
    )


def psum() -> float:
    """Return the sum over all devices of all ranks of their indices, counted from 1."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), ("all",))
    by_device = NamedSharding(mesh, PartitionSpec("all"))
    numbers = np.arange(1.0, len(jax.devices()) + 1, dtype="float32")
    spread = jax.make_array_from_callback(numbers.shape, by_device, lambda part: numbers[part])
    add = jax.shard_map(
        lambda x: jax.lax.psum(x, "all"),
        mesh=mesh,
        in_specs=PartitionSpec("all"),
        out_specs=PartitionSpec(),
    )
    return float(np.asarray(jax.jit(add)(spread))[0])


def initialize_and_see(rank: int) -> Seen:
    """Initialise JAX like a script without procession."""
    import jax

    jax.distributed.initialize()
    return see(rank)


def connect_and_see(rank: int) -> Seen:
    """Initialise JAX like a script that uses procession."""
    import procession_xla

    procession_xla.initialize()
    procession_xla.initialize()  # a second call does nothing
    return see(rank)


def count_local_devices(rank: int) -> int:
    """Use JAX alone."""
    import jax

    return int(jax.local_device_count())


def see_precision(rank: int) -> str:
    """Return the type that JAX gives to a double."""
    import jax.numpy as jnp
    import numpy as np

    return str(jnp.asarray(np.float64(1)).dtype)


def read_after_import(rank: int, *names: str) -> list[str | None]:
    """Return variables after the import of JAX."""
    import jax

    assert jax.__name__ in sys.modules
    return [os.environ.get(name) for name in names]


def raise_(rank: int) -> None:
    raise ValueError(f"of rank {rank}")


def die_of(number: int) -> Callable[[int], object]:
    return lambda _: os.kill(os.getpid(), number)


ENDINGS: dict[str, Callable[[int], object]] = {
    "raise": raise_,
    "sys.exit": lambda _: sys.exit(4),
    "os._exit": lambda _: os._exit(3),
    "SIGKILL": die_of(signal.SIGKILL),
    "SIGSEGV": die_of(signal.SIGSEGV),
}


def end_in_collective(rank: int, who: int, ending: str, folder: str) -> None:
    """End one rank while the others wait for it in a psum."""
    psum()
    if rank == who:
        time.sleep(
            0.1
        )  # by now the others are probably in the psum; the test does not depend on it
        Path(folder, "when").write_text(str(time.monotonic()))
        ENDINGS[ending](rank)
    psum()


def fail_while_another_sleeps(rank: int, folder: str) -> None:
    """Fail once another rank sleeps, which only a signal could end."""
    psum()
    if rank == 0:
        Path(folder, "sleeps").touch()
        time.sleep(600)
    while not Path(folder, "sleeps").exists():
        time.sleep(0.01)
    raise_(rank)


def return_at_once_but(rank: int, late: int, seconds: float) -> int:
    """Return, in one rank after some time."""
    psum()
    if rank == late:
        time.sleep(seconds)
    return rank


def wait_in_collective(rank: int, folder: str) -> None:
    """Note the pid, and wait for ever: all ranks but the last in a psum."""
    import jax

    psum()
    Path(folder, f"pid.{rank}").write_text(str(os.getpid()))
    if rank == jax.process_count() - 1:
        time.sleep(600)
    psum()


def find_listeners(rank: int) -> list[str]:
    """Return the addresses at which the coordinator listens, as the kernel writes them."""
    psum()
    port = int(os.environ["JAX_COORDINATOR_ADDRESS"].rpartition(":")[2])
    lines = [
        line.split()
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
    ]
    ends = [fields[1] for fields in lines if fields[3] == "0A"]  # listening sockets
    return [end.partition(":")[0] for end in ends if int(end.rpartition(":")[2], 16) == port]


def leave_the_others_waiting(rank: int) -> None:
    """Connect in all ranks but the first."""
    import procession_xla

    if rank:
        procession_xla.initialize()
    else:
        time.sleep(600)


def see_modules(rank: int, *names: str) -> list[bool]:
    """Return the modules that are imported."""
    return [name in sys.modules for name in names]

"""Measure how a caller scales: ``python -m tests.benchmarks.scale``, from the root of the repository.

Thousands of fake agents, in a few processes, connect to the hub of one launch.  They get their specs and the
payload, and report that their rank has started and then that it has returned; or one reports that its rank
has raised, and the others are stopped.  The connections, on this machine, the caller, its hub and its context
are real; only the ranks are missing.

All columns are of the caller: seconds until all agents have reported and have their specs; its processor time
for that, per rank; the growth of its memory, per rank; its descriptors, per rank; seconds from one rank's
failure to the exception, with all others stopped; seconds from the first return to the end of a launch in
which all ranks return.
"""

from __future__ import annotations

import argparse
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_A_PROCESS = 500  # fake agents in one


class Fake:
    """An agent without a rank."""

    def __init__(self, description: Any, rank: int) -> None:
        from procession.remote import agent

        own: Any = {**description, "rank": rank}
        self.control, self.end, self.rank = agent.connect(own)
        self.is_done = False

    def hear(self) -> None:
        """Act like an agent, at once."""
        from procession.remote import link as frames

        try:
            while (frame := self.control.receive()) is not None:
                if frame.kind == frames.PAYLOAD:
                    os.close(frame.body)
                    self.control.send(frames.STARTED, os.getpid())
                elif frame.kind == frames.SIGNAL:
                    self.leave(-frame.head)
                elif frame.kind == frames.FINISH:
                    self.is_done = True
                    return
        except EOFError:
            self.is_done = True

    def report(self, kind: str) -> None:
        """Report that the rank has returned, or raised."""
        from procession.remote import link as frames

        text = f"ValueError: of rank {self.rank}" if kind == "raised" else ""
        fields = {"kind": kind, "time": time.monotonic_ns(), "type_name": "", "message": ""}
        self.control.send(
            frames.REPORT, {**fields, "text": text, "result": None, "exception": None}
        )
        self.leave(1 if kind == "raised" else 0)

    def leave(self, code: int) -> None:
        """Report that the rank has ended."""
        if not self.end.closed:
            os.write(self.end.fileno(), code.to_bytes(4, "big", signed=True))
            self.end.close()


def be_agents(description: str, first: int, count: int) -> None:
    """Act as agents until the caller has finished; SIGUSR1: all ranks return, SIGUSR2: the first raises."""
    from procession.remote.placement import unpack

    unpacked = unpack(description)
    fakes = [Fake(unpacked, rank) for rank in range(first, first + count)]
    selector = selectors.DefaultSelector()
    for fake in fakes:
        selector.register(fake.control, selectors.EVENT_READ, fake)

    def report_all(*_: object) -> None:
        for fake in fakes:
            fake.report("returned")

    signal.signal(signal.SIGUSR1, report_all)
    signal.signal(signal.SIGUSR2, lambda *_: fakes[0].report("raised"))
    while selector.get_map():
        for key, _ in selector.select():
            key.data.hear()
            if key.data.is_done:
                selector.unregister(key.fileobj)
                key.data.control.close()


class Fakes:
    """The placement of fake agents."""

    def __init__(self, agents: Any) -> None:
        self.processes = []
        for first in range(0, agents.nprocs, _A_PROCESS):
            count = min(_A_PROCESS, agents.nprocs - first)
            code = f"import scale; scale.be_agents({agents.description!r}, {first}, {count})"
            command = [sys.executable, "-c", code]
            self.processes.append(subprocess.Popen(command, cwd=HERE))

    def failure(self) -> str:
        """Return an error if a process has failed."""
        return (
            "a process of fake agents has failed"
            if any(each.poll() for each in self.processes)
            else ""
        )

    def explain(self) -> str:
        """Return nothing: there is no engine."""
        return ""

    def begun(self) -> None:
        """Do nothing."""

    def end(self, patience: float) -> None:
        """Wait for the processes."""
        for each in self.processes:
            try:
                each.wait(patience)
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()


def measure(nprocs: int, payload: int) -> list[float]:
    """Return the columns for so many ranks and a payload of so many bytes."""
    from procession import Launch, ProcessContext, ProcessRaisedException
    from procession.remote import start_agents

    figures: dict[str, float] = {}
    for outcome in ("returned", "raised"):
        placed: list[Fakes] = []

        def place(agents: Any, placed: list[Fakes] = placed) -> Any:
            placed.append(Fakes(agents))
            return placed[0]

        environments = tuple({"RANK": str(rank)} for rank in range(nprocs))
        launch = Launch(
            len, (bytes(payload),), nprocs, "fake", environments=environments, wants_results=False
        )
        memory, files = read_memory(), len(os.listdir("/proc/self/fd"))
        begun, used = time.perf_counter(), time.process_time()
        context = ProcessContext._of_launch(launch, start_agents(launch, place))
        figures["start"] = time.perf_counter() - begun
        figures["processor"] = (time.process_time() - used) / nprocs
        figures["memory"] = (read_memory() - memory) / nprocs
        figures["files"] = (len(os.listdir("/proc/self/fd")) - files) / nprocs
        begun = time.perf_counter()
        for each in placed[0].processes if outcome == "returned" else placed[0].processes[:1]:
            each.send_signal(signal.SIGUSR1 if outcome == "returned" else signal.SIGUSR2)
        with suppress(ProcessRaisedException):
            context.wait()
        figures[outcome] = time.perf_counter() - begun
    names = ("start", "processor", "memory", "files", "raised", "returned")
    return [figures[name] for name in names]


def read_memory() -> int:
    """Return how much memory this process has, in bytes (proc_pid_statm(5))."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    import logging

    from printing import print_table

    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[250, 500, 1000, 2000])
    parser.add_argument("--payload", type=int, default=1000, help="bytes that args hold")
    given = parser.parse_args(arguments)
    logging.getLogger("procession").setLevel(
        logging.ERROR
    )  # one line for each rank that is stopped
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    head = ["ranks", "start s", "CPU ms/rank", "KiB/rank", "files/rank", "failure s", "end s"]
    table = [head]
    for nprocs in given.ranks:
        start, processor, memory, files, raised, returned = measure(nprocs, given.payload)
        cells = [start, processor * 1e3, memory / 1024, files, raised, returned]
        table.append([str(nprocs), *(f"{cell:.3g}" for cell in cells)])
    print_table(table)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()

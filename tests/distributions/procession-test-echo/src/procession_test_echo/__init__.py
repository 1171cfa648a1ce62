"""A start method from outside: ranks are processes of multiprocessing that report over a pipe."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import time
import traceback
from multiprocessing.connection import Connection

from procession import Availability, Capabilities, Launch, Report, Started


class Channel:
    """The caller's end of a pipe; a `Connection` has its `fileno` and `close` already."""

    def __init__(self, connection: Connection) -> None:
        self.fileno, self.close = connection.fileno, connection.close
        self._connection = connection

    def receive(self) -> Report | None:
        return self._connection.recv() if self._connection.poll() else None


class EchoBackend:
    name = "echo-process"
    protocol_version = 1
    capabilities = Capabilities(by_reference=True, context="fork")

    def availability(self) -> Availability:
        ok = hasattr(os, "fork")
        return Availability(ok, "" if ok else "this platform cannot fork")

    def start(self, launch: Launch) -> Started:
        context = multiprocessing.get_context("fork")
        processes, channels = [], []
        try:
            for rank in range(launch.nprocs):
                ours, theirs = context.Pipe(duplex=False)
                channels.append(Channel(ours))
                process = context.Process(target=_live, args=(launch, rank, theirs))
                process.daemon = launch.daemon
                process.start()
                theirs.close()
                processes.append(process)
        except BaseException:
            for process in processes:
                process.kill()
                process.join()
            raise
        return Started(processes, [process.sentinel for process in processes], channels)


def _live(launch: Launch, rank: int, channel: Connection) -> None:
    for name, value in launch.environments[rank].items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    report, status = Report("returned", time.monotonic_ns()), 0
    try:
        result = launch.fn(rank, *launch.args)
        report = Report("returned", time.monotonic_ns(), result=pickle.dumps(result))
    except SystemExit as error:
        if error.code:
            report, status = Report("exited", time.monotonic_ns(), text=str(error.code)), error.code
    except BaseException as error:
        now, text = time.monotonic_ns(), traceback.format_exc()
        report, status = Report("raised", now, type(error).__name__, str(error), text), 1
    channel.send(report)
    sys.exit(status)

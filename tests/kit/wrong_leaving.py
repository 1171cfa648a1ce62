"""Backends that leave something behind: each has one fault, and fails the tests that it names."""

from __future__ import annotations

import os
import subprocess
import threading
from typing import Any, ClassVar

from sound import MANY, Around, Sound, WrongProcess, faults, kept

from procession import Launch, Started


class Unreaped(Around):
    @property
    def exitcode(self) -> int | None:
        return self.inner._exitcode if self._look() else None

    def is_alive(self) -> bool:
        return not self._look()

    def join(self, timeout: float | None = None) -> None:
        if self.inner._has_ended(timeout or 0):
            self._look()

    def _look(self) -> bool:
        """Note how the process ended without reaping it."""
        if self.inner._exitcode is None:
            how = os.waitid(os.P_PID, self.inner.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if how is None:
                return False
            killed = how.si_code != os.CLD_EXITED
            self.inner._exitcode = -how.si_status if killed else how.si_status
            self.inner._ended = True
        return True


class LeavesAZombie(WrongProcess):
    wrap = Unreaped
    fails = {
        "test_nothing_is_left[child]",
        # `leaves_group` is set when a process is reaped; without it, processes of its group are not ended
        *faults("all well, program left", "all well, fork left"),
    }


class LeaksADescriptor(Sound):
    fails = {"test_nothing_is_left[descriptor]"}

    def start(self, launch: Launch) -> Started:
        kept.append(os.open(os.devnull, os.O_RDONLY))
        return super().start(launch)


class LeaksAThread(Sound):
    fails = {"test_nothing_is_left[thread]"}

    def start(self, launch: Launch) -> Started:
        started = super().start(launch)
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return started


class LeavesAChild(Sound):
    fails = {"test_one_rank_and_many"}

    def start(self, launch: Launch) -> Started:
        if launch.nprocs == MANY:
            kept.append(subprocess.Popen(self.command, env={}))
        return super().start(launch)

    command = ["sleep", "77"]


class LeavesAStranger(LeavesAChild):
    """Leaves a process in a new session, without a parent and without its environment."""

    command = ["sh", "-c", "setsid sleep 77 >/dev/null 2>&1 </dev/null &"]
    fails = {"test_one_rank_and_many"}


class LeavesOneALaunch(Sound):
    """Leaves one process at each launch; a single one would count as a helper."""

    fails = {"test_there_is_one_of_each_a_rank", "test_the_index_is_the_rank"}

    def start(self, launch: Launch) -> Started:
        if launch.nprocs == 3:
            kept.append(subprocess.Popen(["sleep", "77"]))
        return super().start(launch)


class HasAHelper(Sound):
    """Has no fault: one process serves all launches."""

    fails = set()
    helper: ClassVar[Any] = None

    def start(self, launch: Launch) -> Started:
        if type(self).helper is None:
            type(self).helper = subprocess.Popen(
                ["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
            )  # ends with this process
        return super().start(launch)


class LeavesHalf(Sound):
    fails = {"test_a_start_that_fails_leaves_no_rank"}

    def start(self, launch: Launch) -> Started:
        try:
            return super().start(launch)
        except OSError:
            kept.append(super().start(launch.replace(nprocs=2, environments=({}, {}))))
            raise

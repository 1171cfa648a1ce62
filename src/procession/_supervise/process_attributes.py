"""The attributes of a `multiprocessing.Process` that all process classes of this package share."""

from __future__ import annotations

import signal


class ProcessAttributes:
    """Adds the remaining attributes of a `multiprocessing.Process` to the process of a rank.

    There is no ``start`` and no ``run``: the backend has started the process, with the launch's function.
    """

    pid: int
    """The process id, on the rank's host."""
    name: str
    daemon: bool

    @property
    def ident(self) -> int:
        """The process id; the same as ``pid``."""
        return self.pid

    @property
    def authkey(self) -> bytes:
        """The authentication key of multiprocessing, which ranks share with their caller."""
        from multiprocessing import current_process

        return current_process().authkey

    def interrupt(self) -> None:
        """Send SIGINT to the process and its group."""
        self.send_signal(signal.SIGINT)

    def close(self) -> None:
        """Check that the process has ended; free nothing.

        The launch frees what the object holds, and its exit code stays readable.

        Raises:
            ValueError: the process still runs.
        """
        if self.is_alive():
            raise ValueError(
                f"{self.name} (pid {self.pid}) cannot be closed while it runs: join it, or terminate it, "
                "first"
            )

    def is_alive(self) -> bool:
        """Whether the process still runs."""
        raise NotImplementedError

    def send_signal(self, number: int) -> None:
        """Send a signal to the process and its group, unless it has ended."""
        raise NotImplementedError

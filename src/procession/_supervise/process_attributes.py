"""What a `multiprocessing.Process` has besides, for the processes of a launch."""

from __future__ import annotations

import signal


class ProcessAttributes:
    """Gives a rank's process the rest of the attributes of a `multiprocessing.Process`.

    There is no ``start`` and no ``run``: it is started, and what it runs is the launch's.
    """

    pid: int
    """The process id, on the rank's host."""
    name: str
    daemon: bool

    @property
    def ident(self) -> int:
        """The process id, as ``pid``."""
        return self.pid

    @property
    def authkey(self) -> bytes:
        """The authentication key of multiprocessing, which ranks share with their launcher."""
        from multiprocessing import current_process

        return current_process().authkey

    def interrupt(self) -> None:
        """Send SIGINT to it and its group."""
        self.send_signal(signal.SIGINT)

    def close(self) -> None:
        """Check that it has ended.  What it holds its launch frees, so that its exit code stays known.

        Raises:
            ValueError: it still runs.
        """
        if self.is_alive():
            raise ValueError(
                f"{self.name} (pid {self.pid}) cannot be closed while it runs: join it, or terminate it, "
                "first"
            )

    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        raise NotImplementedError

    def send_signal(self, number: int) -> None:
        """Send a signal to it and its group, if it has not ended."""
        raise NotImplementedError

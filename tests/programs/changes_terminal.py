"""Starts a rank that changes the terminal which its caller has; prints ``changed``.

Usage: changes_terminal.py START_METHOD ["in a terminal"]; with the latter, in a terminal that it opens.
"""

from __future__ import annotations

import pty
import sys
import termios

from procession import start_processes


def change(rank: int) -> None:
    termios.tcsetattr(1, termios.TCSADRAIN, termios.tcgetattr(1))
    print("changed")


if __name__ == "__main__":
    if sys.argv[2:]:
        sys.exit(pty.spawn([sys.executable, *sys.argv[:2]]))
    start_processes(change, start_method=sys.argv[1], timeout=20)

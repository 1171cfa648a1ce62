"""A worker of an engine that starts an agent, forks a child that outlives it by seconds, and waits.

The argument is the description of the agent's launch.
"""

from __future__ import annotations

import os
import sys
import time

from procession.remote import host_agent

if __name__ == "__main__":
    agent = host_agent(sys.argv[1], 0)
    if os.fork() == 0:
        time.sleep(5)
        os._exit(0)
    time.sleep(60)

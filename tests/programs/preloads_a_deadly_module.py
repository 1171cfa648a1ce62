"""Has the forkserver preload a module that ends it; prints the error."""

from __future__ import annotations

import sys

from procession import run

sys.argv[1:] = ["die"]
try:
    run(abs, start_method="forkserver", options={"preload": ["deadly"]})
except ChildProcessError as error:
    print(error)

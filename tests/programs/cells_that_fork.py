"""Forks ranks from cells of a notebook; prints the outcome where none but the kernel's threads run, and where
another one does.
"""

import threading
import warnings

from procession import UnsafeForkWarning, run


def give(rank: int) -> int:
    return rank


warnings.simplefilter("error", UnsafeForkWarning)
print(run(give, nprocs=2, start_method="fork"), len(threading.enumerate()) > 3)

# %%
end = threading.Event()
threading.Thread(target=end.wait, name="of a cell").start()
try:
    run(give, nprocs=2, start_method="fork")
except UnsafeForkWarning as warning:
    print(str(warning).splitlines()[1])
end.set()

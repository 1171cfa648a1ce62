"""Scripts like those of users: they start ranks of their own function by spawn, and wait for them.

The script is the main module: each rank imports it, with all that it imports.
"""

from __future__ import annotations

_SCRIPT = """
{imports}

def nothing(rank):
    pass

if __name__ == "__main__":
{calls}
"""


def _write(imports: str, *calls: str) -> str:
    return _SCRIPT.format(imports=imports, calls="".join(f"    {call}\n" for call in calls))


def make_programs(ranks: int) -> dict[str, str]:
    """Return the script of each contestant; the one of the limit starts interpreters that run nothing."""
    call = f"start_processes(nothing, nprocs={ranks})"
    return {
        "bare": _write(
            "import subprocess, sys",
            f"started = [subprocess.Popen([sys.executable, '-c', 'pass']) for _ in range({ranks})]",
            "for process in started: process.wait()",
        ),
        "procession": _write("from procession import start_processes", call),
        "stdlib": _write(
            "from multiprocessing import get_context",
            "context = get_context('spawn')",
            f"ranks = [context.Process(target=nothing, args=(rank,)) for rank in range({ranks})]",
            "for rank in ranks: rank.start()",
            "for rank in ranks: rank.join()",
        ),
        "torch": _write("from torch.multiprocessing import start_processes", call),
        "mpire": _write(
            "from mpire import WorkerPool",
            f"with WorkerPool(n_jobs={ranks}, start_method='spawn') as pool:",
            f"    pool.map(nothing, range({ranks}), chunk_size=1)",
        ),
        "loky": _write(
            "from loky import ProcessPoolExecutor",
            f"with ProcessPoolExecutor({ranks}) as executor:",
            f"    list(executor.map(nothing, range({ranks})))",
        ),
    }

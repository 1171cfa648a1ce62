"""Callers whose standard streams are closed, as daemons' are: nothing of ours comes to their numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDERS = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])

METHODS = ["fork", "spawn", "forkserver", "command"]

SCRIPT = """
import os, sys, time
method, folder, how = sys.argv[1:]
if __name__ == "__main__" and how == "file":
    os.open(os.path.join(folder, "own"), os.O_WRONLY | os.O_CREAT)

import standin
from procession import start_processes

def low():
    found = []
    for number in range(3):
        try:
            found.append((number, os.readlink(f"/proc/self/fd/{number}")))
        except OSError:
            pass
    return found

def work(rank, path):
    try:
        os.write(2, b"NOISE")
    except OSError:  # closed, as the caller's
        pass
    while not os.path.exists(path):
        time.sleep(0.005)
    return rank, bytes(100_000) == bytes(100_000)

LOOK = '''
import os
names = os.listdir(f"/proc/{os.getppid()}/fd")
with open(os.path.join(%r, f"low {rank}"), "w") as file:
    file.write(repr([(n, os.readlink(f"/proc/{os.getppid()}/fd/{n}")) for n in names if int(n) < 3]))
''' % folder

if __name__ == "__main__":
    go = os.path.join(folder, "go")
    text = ""
    try:
        before = low()
        options = standin.options(LOOK) if method == "command" else None
        keywords = {"start_method": method, "options": options, "collect_results": True}
        context = start_processes(work, (go,), 2, join=False, **keywords)
        stacks = sorted(context.dump_stacks())
        meanwhile = low()
        os.close(os.open(go, os.O_WRONLY | os.O_CREAT))
        text = repr((context.results(), stacks, meanwhile == before == low()))
    except BaseException as error:
        text = repr(error)
    fd = os.open(os.path.join(folder, "told"), os.O_WRONLY | os.O_CREAT)
    os.write(fd, text.encode())
    os.close(fd)
"""


@pytest.mark.parametrize("start_method", METHODS)
@pytest.mark.parametrize(
    ("how", "closing"),
    [
        ("nothing", "0<&- >&- 2>&-"),
        ("nothing", ">&- 2>&-"),
        ("nothing", "0<&-"),
        ("file", "2>&-"),
        ("file", "0<&- >&- 2>&-"),
    ],
)
def test_a_caller_without_streams(
    start_method: str, how: str, closing: str, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = f'exec "$@" {closing}'
    subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, str(script), start_method, str(tmp_path), how],
        env={**os.environ, "PYTHONPATH": FOLDERS, "STANDIN": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=60,
    )
    assert (tmp_path / "told").read_text() == "([(0, True), (1, True)], [0, 1], True)"
    if how == "file" and start_method != "fork":  # whose ranks have the caller's own files
        assert (tmp_path / "own").read_text() == ""
    for told in tmp_path.glob("low *"):
        own = str(tmp_path / "own")
        links = [link for _, link in eval(told.read_text())]
        assert [link for link in links if link not in (os.devnull, own)] == []

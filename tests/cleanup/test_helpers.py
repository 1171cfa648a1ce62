"""A process that has launched leaves no helper of its own behind as an orphan, not even as a zombie."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import execute

SCRIPT = """
    import ctypes, multiprocessing, os, sys, time
    import procession
    from procession._cleanup.marks import list_children

    def work(rank):
        return rank

    def nested(rank, inner, fails):
        assert procession.run(work, (), 1, start_method=inner) == [0]
        if fails:
            raise ValueError("boom")
        if inner != "fork":
            multiprocessing.get_context(inner).Lock()

    if __name__ == "__main__":
        outer, inner, how = sys.argv[1:]
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
        procession.run(work, (), 1, start_method=outer)
        if how != "none":
            multiprocessing.get_context("spawn").Lock()
        before = set(list_children(os.getpid()))
        if outer == "multiprocessing":
            context = multiprocessing.get_context("fork")
            process = context.Process(target=nested, args=(0, inner, False))
            process.start()
            process.join()
        else:
            try:
                fails = how == "fails"  # then alone: a rank that is killed cannot clean up
                procession.run(nested, (inner, fails), 2 - fails, start_method=outer)
            except procession.ProcessRaisedException as error:
                assert "boom" in str(error)
        time.sleep(0.3)
        print(set(list_children(os.getpid())) - before)
    """


@pytest.mark.parametrize("how", ["works", "fails", "none"])
@pytest.mark.parametrize("inner", ["fork", "spawn", "forkserver"])
def test_nested_launches_leave_no_zombies(
    start_method: str, inner: str, how: str, tmp_path: Path
) -> None:
    told = execute(tmp_path, SCRIPT, start_method, inner, how)
    assert told == "set()\n"


@pytest.mark.parametrize("inner", ["fork", "spawn", "forkserver"])
def test_launches_in_children_of_multiprocessing_leave_no_zombies(
    inner: str, tmp_path: Path
) -> None:
    script = SCRIPT.replace("procession.run(work, (), 1, start_method=outer)", "pass")
    assert execute(tmp_path, script, "multiprocessing", inner, "works") == "set()\n"

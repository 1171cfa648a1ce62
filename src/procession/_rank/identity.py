"""Makes a rank a child process in the eyes of `multiprocessing`, without importing multiprocessing for it.

`current_process()`, `parent_process()`, the authentication key, the start method and the resource tracker are
set when the rank imports multiprocessing, or at once if it is imported already.  Ranks import this module: at
its top it imports only sys.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    from procession._rank.spec import RankSpec

outer_group: int | None = None
"""The process group that this rank was in when it started; None on Windows and in other processes."""

_CONTEXT = "multiprocessing.context"
_TRACKER = "multiprocessing.resource_tracker"
_TRACKER_PATIENCE = 0.2  # seconds for a tracker to end: others may still use it
_own_tracker = 0, 0  # the process that started a tracker, and the tracker's process id


def assume(spec: RankSpec, rank: int, parent_sentinel: int) -> None:
    """Take on the identity that the spec gives, now or when multiprocessing is imported."""
    when_imported(_CONTEXT, lambda: _adopt(spec, rank, parent_sentinel))
    tracker = spec["tracker"]
    when_imported(
        _TRACKER, _start_trackers_apart if tracker < 0 else lambda: _share_tracker(tracker)
    )
    # A log record names the process only if multiprocessing is imported.
    when_imported("logging", lambda: __import__("multiprocessing"))


def number_process(first: Sequence[int], rank: int) -> tuple[int, ...]:
    """Return the identity that multiprocessing would give a rank's process; ``first`` is rank 0's."""
    return (*first[:-1], first[-1] + rank)


def name_process(start_method: str, first: Sequence[int], rank: int) -> str:
    """Return the name that multiprocessing would give a rank's process."""
    numbers = ":".join(map(str, number_process(first, rank)))
    return f"{start_method.title().replace('server', 'Server')}Process-{numbers}"


def _adopt(spec: RankSpec, rank: int, parent_sentinel: int) -> None:
    import itertools
    from multiprocessing import process as process_module
    from multiprocessing import util as util_module

    context: Any = sys.modules[_CONTEXT]  # much of what follows is private
    process: Any = process_module
    util: Any = util_module
    method = spec["context"]
    context._force_start_method(method)
    process._process_counter = itertools.count(1)
    process._children = set()
    kind = context._concrete_contexts[method].Process
    own = kind.__new__(kind)  # __init__ would be a good part of a forked rank's cost
    own.__dict__.update(
        _identity=number_process(spec["identity"], rank),
        _name=name_process(method, spec["identity"], rank),
        _config={**process._current_process._config, "daemon": spec["daemon"]},
        _parent_pid=spec["parent_pid"],
        _parent_name=spec["parent_name"],
        _popen=None,
        _closed=False,
        _target=None,
        _args=(),
        _kwargs={},
    )
    own.authkey = spec["authkey"]
    process._current_process = own
    process._parent_process = process._ParentProcess(
        spec["parent_name"], spec["parent_pid"], parent_sentinel
    )
    if spec["forked"]:
        util._finalizer_registry.clear()
        if len(util._afterfork_registry):
            util._run_after_forkers()


def _share_tracker(fd: int) -> None:
    sys.modules[_TRACKER]._resource_tracker._fd = fd


def _start_trackers_apart() -> None:
    """Start this rank's resource tracker in the group that the rank came from, so that it outlives the rank.

    With the rank's own group and mark it would be killed with a rank that failed, before it can clean up.
    """
    module: Any = sys.modules[_TRACKER]
    tracker = module._resource_tracker
    launches = hasattr(tracker, "_launch")  # newer Pythons call it only if there is no tracker yet
    start = tracker._launch if launches else tracker.ensure_running

    def start_apart() -> None:
        global _own_tracker
        if outer_group is None or (tracker._fd is not None and not launches):
            start()
            return
        import os

        try:
            os.setpgid(0, outer_group)
        except OSError:  # that group is empty now
            pass
        try:
            start()
        finally:
            os.setpgid(0, 0)
        from procession._cleanup.marks import spare

        spare(tracker._pid)
        _own_tracker = os.getpid(), tracker._pid

    if launches:
        tracker._launch = start_apart
    else:
        tracker.ensure_running = module.ensure_running = start_apart


def end_tracker() -> None:
    """End and reap the resource tracker that this process started, if any; call it last."""
    import os

    owner, pid = _own_tracker
    if owner != os.getpid():
        return
    from time import monotonic, sleep

    tracker: Any = sys.modules[_TRACKER]._resource_tracker
    system: Any = sys.modules[os.name]  # its functions are never gevent's
    if tracker._fd is not None:
        system.close(tracker._fd)
    until = monotonic() + _TRACKER_PATIENCE
    try:
        while system.waitpid(pid, os.WNOHANG) == (0, 0) and monotonic() < until:
            sleep(0.001)
    except ChildProcessError:
        pass


class _AfterImport:
    """A finder that finds nothing itself, but calls a function once one module has been imported."""

    def __init__(self, name: str, call: Callable[[], Any]) -> None:
        self._name, self._call = name, call

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    wrapped: Any = _CallingLoader(spec.loader, self._call)
                    spec.loader = wrapped
                return spec
        return None


class _CallingLoader:
    """Wraps a loader, to call a function once the module has been executed."""

    def __init__(self, loader: Any, call: Callable[[], Any]) -> None:
        self._loader, self._call = loader, call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._call()


def when_imported(name: str, call: Callable[[], Any]) -> None:
    """Call a function once a module has been imported: now, if it already is."""
    if name in sys.modules:
        call()
    else:
        sys.meta_path.insert(0, _AfterImport(name, call))

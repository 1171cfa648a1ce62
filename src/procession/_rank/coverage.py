"""Measures ranks with coverage.py if their caller is measured with ``concurrency = multiprocessing``.

Coverage patches `multiprocessing.Process` for that.  Ranks are no such processes, so this module does what
the patch would do.  A rank imports it only if it is measured.
"""

from __future__ import annotations

import atexit
import os
from typing import Any, TypeAlias

from procession._rank.report import describe, write_error

Settings: TypeAlias = "tuple[str, str | None]"
"""Coverage's configuration file, and the caller's data file, whose name is the prefix of each rank's."""

_coverage: Any = None  # this rank's


def find_settings(multiproc: Any) -> Settings | None:
    """Return how to measure ranks, given ``coverage.multiproc`` of the caller; None if not at all."""
    import multiprocessing

    rcfile = os.environ.get("COVERAGE_RCFILE")
    if rcfile is None or not hasattr(multiprocessing, multiproc.PATCHED_MARKER):
        return None
    from coverage import Coverage

    data = getattr(Coverage.current(), "_data", None)  # `get_data` would collect data, and may warn
    return rcfile, None if data is None else data.base_filename()


def start(settings: Settings) -> None:
    """Measure this rank from now on; an exit handler saves its data."""
    global _coverage
    rcfile, data_file = settings
    _coverage = None  # a forked rank has its parent's
    if not os.path.exists(rcfile):  # on another host
        return
    try:
        from coverage import Coverage

        options: dict[str, Any] = {} if data_file is None else {"data_file": data_file}
        own: Any = Coverage(config_file=rcfile, data_suffix=True, auto_data=True, **options)
        own._warn_preimported_source = False  # a forked rank has imported it all
        own._warn_no_data = False  # a rank may be stopped before it runs any
        own.start()
        _coverage = own
        atexit.register(stop)
    except Exception as error:  # the rank is then not measured, which is no reason to fail
        write_error(describe(error))


def stop() -> None:
    """Save the data, at the rank's end or before it reports a failure, after which its time is limited."""
    global _coverage
    own, _coverage = _coverage, None
    if own is None:
        return
    import signal

    ending = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # could leave half a file
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        own.stop()
        own.save()
    except Exception as error:
        write_error(describe(error))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

"""The command line: `procession run` starts ranks, `procession backends` lists start methods."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from procession.targets import TargetError, import_function

if TYPE_CHECKING:
    from procession._registry.listing import BackendInfo

FAILED, MISUSED, INTERRUPTED = 1, 2, 130  # exit statuses


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except TargetError as error:
        return _complain(error)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="procession", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands.add_parser("run", help="start N ranks of one function, and wait for them"))
    _add_backends(commands.add_parser("backends", help="list the start methods there are"))
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-n", "--nprocs", type=int, default=1, metavar="N", help="how many ranks (default: 1)")
    add("--start-method", default="spawn", metavar="M", help="how to start them (default: spawn)")
    add(
        "--env",
        type=_read_variable,
        action="append",
        default=[],
        metavar="K=V",
        help="an environment variable for all ranks; may be repeated",
    )
    add("--timeout", type=float, metavar="S", help="stop all ranks after so many seconds")
    add("target", metavar="MODULE:FUNCTION|FILE.py:FUNCTION", help="called as FUNCTION(rank, ARGS)")
    add("args", nargs=argparse.REMAINDER, metavar="ARGS", help="passed on, as strings")
    parser.set_defaults(command=_run)


def _add_backends(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", nargs="?", help="only this one; exit status 1 if it cannot be used")
    add("--check", action="store_true", help="import the plugins, to see whether they work here")
    add("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=_list)


def _read_variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _run(options: argparse.Namespace) -> int:
    from procession.api import start_processes
    from procession.exceptions import ProcessException

    function = import_function(options.target)
    try:
        start_processes(
            function,
            args=tuple(options.args),
            nprocs=options.nprocs,
            start_method=options.start_method,
            env=dict(options.env),
            timeout=options.timeout,
            rendezvous=True,
        )
    except ProcessException as error:
        print(_whole_message(error), file=sys.stderr)
        return FAILED
    except (ValueError, TypeError, ImportError, RuntimeError) as error:  # bad input
        return _complain(error)
    return 0


def _whole_message(error: BaseException) -> str:
    # On Python 3.10 the notes are in the string already.
    notes = getattr(error, "__notes__", ()) if sys.version_info >= (3, 11) else ()
    return "\n".join([str(error).lstrip("\n"), *notes])


def _complain(error: BaseException) -> int:
    print(f"procession: error: {_whole_message(error)}", file=sys.stderr)
    return MISUSED


def _list(options: argparse.Namespace) -> int:
    from procession._registry.listing import check_backend

    try:
        if options.name is not None:
            infos = [check_backend(options.name, load=options.check)]
        else:
            infos = _list_all(load=options.check)
    except ValueError as error:
        return _complain(error)
    print(json.dumps(list(map(_to_dict, infos)), indent=2) if options.json else _table(infos))
    is_usable = options.name is None or infos[0].status in ("ok", "not loaded")
    return 0 if is_usable else FAILED


def _list_all(*, load: bool) -> list[BackendInfo]:
    from procession._registry.listing import check_backend, list_backends

    return [
        check_backend(f"{info.distribution}:{info.name}")
        if load and info.status == "not loaded"
        else info
        for info in list_backends()
    ]


def _to_dict(info: BackendInfo) -> dict[str, Any]:
    capabilities = info.capabilities
    return {
        **info._asdict(),
        "capabilities": None if capabilities is None else capabilities._asdict(),
    }


def _table(infos: list[BackendInfo]) -> str:
    rows = [("NAME", "ORIGIN", "DISTRIBUTION", "STATUS", "REASON"), *map(_row, infos)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _row(info: BackendInfo) -> tuple[str, ...]:
    whose = f"{info.distribution} {info.version}".strip()
    reason = f"{info.reason} ({info.hint})" if info.hint else info.reason
    return info.name, info.origin or "-", whose or "-", info.status, reason

"""`procession run`: starts N ranks of one function and waits for them."""

from __future__ import annotations

import argparse
import sys

from procession.cli.messages import FAILED, complain, whole_message
from procession.cli.targets import import_function


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to a parser."""
    add = parser.add_argument
    add("-n", "--nprocs", type=int, default=1, metavar="N", help="number of ranks (default: 1)")
    add("--start-method", default="spawn", metavar="M", help="start method (default: spawn)")
    add(
        "--env",
        type=_read_variable,
        action="append",
        default=[],
        metavar="K=V",
        help="set an environment variable in all ranks; may be repeated",
    )
    add("--timeout", type=float, metavar="S", help="stop all ranks after S seconds")
    add("--verbose", action="store_true", help="follow the launch on standard error")
    add("target", metavar="MODULE:FUNCTION|FILE.py:FUNCTION", help="called as FUNCTION(rank, ARGS)")
    add("args", nargs=argparse.REMAINDER, metavar="ARGS", help="arguments for FUNCTION, as strings")
    parser.set_defaults(command=_run)


def _read_variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _run(options: argparse.Namespace) -> int:
    from procession.api import start_processes
    from procession.exceptions import ProcessException

    if options.verbose:
        from procession._python.log import print_log

        print_log("debug")
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
        print(whole_message(error), file=sys.stderr)
        return FAILED
    except (ValueError, TypeError, ImportError, RuntimeError) as error:  # bad input
        return complain(error)
    return 0

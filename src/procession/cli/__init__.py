"""The command line: `procession run` starts ranks, `procession backends` lists start methods."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from procession.cli import backends, run
from procession.cli.messages import INTERRUPTED, complain
from procession.cli.targets import TargetError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand, and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except TargetError as error:
        return complain(error)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="procession", description=__doc__)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    run.add_to(commands.add_parser("run", help="start N ranks of one function and wait for them"))
    backends.add_to(commands.add_parser("backends", help="list all start methods"))
    return parser


class _Version(argparse.Action):
    """Prints the version; reads it from installed metadata only if the option is given."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from procession import __version__

        print(f"procession {__version__}")
        parser.exit()

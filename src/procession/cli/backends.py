"""`procession backends`: lists all start methods, with the reason if one cannot be used."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from procession.cli.messages import FAILED, complain

if TYPE_CHECKING:
    from procession._registry.listing import BackendInfo


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to a parser."""
    add = parser.add_argument
    add("name", nargs="?", help="show this one only; exit with 1 if it cannot be used")
    add("--check", action="store_true", help="import the plugins to see whether they work here")
    add("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=_list)


def _list(options: argparse.Namespace) -> int:
    from procession._registry.listing import check_backend

    try:
        if options.name is not None:
            infos = [check_backend(options.name, load=options.check)]
        else:
            infos = _list_all(load=options.check)
    except ValueError as error:
        return complain(error)
    print(json.dumps(list(map(_to_dict, infos)), indent=2) if options.json else _table(infos))
    if options.name is None and not options.json:
        print(*_footnotes(infos), sep="\n")
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


def _footnotes(infos: list[BackendInfo]) -> Iterator[str]:
    """Return what the table does not say: the default, and which plugins are not installed."""
    from procession._registry.catalog import FIRST_PARTY
    from procession._registry.lookup import DEFAULT

    chosen = os.environ.get(DEFAULT)
    asked = f"; start_method=None is {chosen!r} ({DEFAULT})" if chosen else ""
    yield f"\nThe default is spawn{asked}."
    missing = sorted(FIRST_PARTY.keys() - {info.name for info in infos})
    if missing:
        yield f"Not installed: {', '.join(f'{name} ({FIRST_PARTY[name]})' for name in missing)}."


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
    distribution = f"{info.distribution} {info.version}".strip()
    reason = f"{info.reason} ({info.hint})" if info.hint else info.reason
    return info.name, info.origin or "-", distribution or "-", info.status, reason

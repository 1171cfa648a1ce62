"""`procession backends`: lists the start methods there are, and what is wrong with one."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from procession.cli.messages import FAILED, complain

if TYPE_CHECKING:
    from procession._registry.listing import BackendInfo


def add_to(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of this command."""
    add = parser.add_argument
    add("name", nargs="?", help="only this one; exit status 1 if it cannot be used")
    add("--check", action="store_true", help="import the plugins, to see whether they work here")
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

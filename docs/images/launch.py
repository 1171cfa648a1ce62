"""Draws the way of one launch, from the call to a rank and back: ``python docs/images/launch.py``.

Writes ``launch.svg`` beside this file; a test fails where the two differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

TARGET = Path(__file__).with_suffix(".svg")
WIDTH, HEIGHT = 980, 640

STYLE = """
text { font-family: system-ui, sans-serif; font-size: 13px; fill: #24292f; }
.room { font-family: ui-monospace, monospace; font-weight: 600; font-size: 14px; }
.place { font-weight: 600; font-size: 15px; fill: #57606a; }
.label { font-size: 12px; fill: #57606a; }
.caller { fill: #ddf4ff; stroke: #54aeff; }
.between { fill: #fff8c5; stroke: #d4a72c; }
.rank { fill: #dafbe1; stroke: #4ac26b; }
.user { fill: #ffffff; stroke: #4ac26b; stroke-width: 2; }
.lane { fill: #f6f8fa; stroke: none; }
polyline { fill: none; stroke-width: 1.5; }
.way { stroke: #24292f; marker-end: url(#tip); }
.back { stroke: #0969da; marker-end: url(#back-tip); }
.signal { stroke: #cf222e; stroke-dasharray: 5 4; marker-end: url(#signal-tip); }
"""

LANES = (
    (20, 330, "in the caller"),
    (370, 230, "for some start methods"),
    (620, 340, "in a rank"),
)
"""The left edge, the width and the heading of each place where code runs."""


class Box(NamedTuple):
    """A room, or what happens in one."""

    left: int
    top: int
    width: int
    height: int
    kind: str
    room: str
    text: str


BOXES = (
    Box(80, 60, 220, 56, "caller", "api", "start_processes, run, spawn"),
    Box(80, 142, 220, 56, "caller", "_registry", "a name becomes a backend"),
    Box(80, 224, 220, 74, "caller", "_launch", "check the call,\npickle fn and args once"),
    Box(80, 324, 220, 56, "caller", "backends", "start all ranks or none"),
    Box(80, 436, 220, 74, "caller", "context, _supervise", "wait, find the root cause,\nstop the others"),
    Box(80, 540, 220, 74, "caller", "_cleanup", "end what ranks have started;\nreaper: if the caller dies"),
    Box(390, 142, 190, 74, "between", "_forkserver", "a server that has made\nthe imports forks ranks"),
    Box(390, 234, 190, 74, "between", "remote", "an engine places agents;\neach starts one rank"),
    Box(680, 60, 250, 74, "rank", "_rank.bootstrap", "a new interpreter;\nor after_fork: a fork"),
    Box(680, 160, 250, 74, "rank", "_rank.life", "parent-death signal, environment,\nload fn and args"),
    Box(680, 292, 250, 56, "user", "fn(rank, *args)", "your code"),
    Box(680, 396, 250, 56, "rank", "_rank.report", "one report: result or traceback"),
    Box(680, 500, 250, 56, "rank", "exit", "exit code or signal"),
)  # fmt: skip

Arrow = tuple[str, Sequence[tuple[int, int]]]

ARROWS: tuple[Arrow, ...] = (
    ("way", [(190, 116), (190, 140)]),
    ("way", [(190, 198), (190, 222)]),
    ("way", [(190, 298), (190, 322)]),
    ("way", [(190, 380), (190, 434)]),
    ("way", [(300, 352), (356, 352), (356, 97), (678, 97)]),
    ("way", [(356, 179), (388, 179)]),
    ("way", [(356, 271), (388, 271)]),
    ("way", [(580, 179), (640, 179), (640, 112), (678, 112)]),
    ("way", [(580, 271), (640, 271), (640, 112)]),
    ("way", [(805, 134), (805, 158)]),
    ("way", [(805, 234), (805, 290)]),
    ("way", [(805, 348), (805, 394)]),
    ("way", [(805, 452), (805, 498)]),
    ("back", [(680, 424), (650, 424), (650, 456), (302, 456)]),
    ("back", [(680, 528), (650, 528), (650, 494), (302, 494)]),
    ("signal", [(302, 475), (664, 475), (664, 320), (678, 320)]),
    ("back", [(80, 473), (46, 473), (46, 88), (78, 88)]),
    ("signal", [(190, 510), (190, 538)]),
)

LABELS = (
    (400, 90, "fork, spawn: directly"),
    (430, 450, "the report, by the channel"),
    (420, 469, "signals: stop, show your stack"),
    (430, 511, "the end, by the sentinel"),
    (200, 404, "processes, sentinels,"),
    (200, 421, "channels"),
)
"""The left end and the baseline of each remark beside an arrow."""

TURNED = (38, 290, "results, or the exception")
"""The remark that is written upwards."""


def draw() -> str:
    """Return the picture."""
    tips = "".join(
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0 8 4 0 8z" fill="{colour}"/></marker>'
        for name, colour in (("tip", "#24292f"), ("back-tip", "#0969da"), ("signal-tip", "#cf222e"))
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>The way of one launch: from the call to a rank, and back</title>",
        f"<style>{STYLE}</style>",
        f"<defs>{tips}</defs>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff"/>',
        *_draw_lanes(),
        *_draw_arrows(),
        *_draw_boxes(),
        *_draw_labels(),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _draw_lanes() -> Iterator[str]:
    for left, width, name in LANES:
        yield f'<rect class="lane" x="{left}" y="12" width="{width}" height="{HEIGHT - 24}" rx="6"/>'
        yield _write(left + width // 2, 38, name, "place", "middle")


def _draw_arrows() -> Iterator[str]:
    for kind, points in ARROWS:
        path = " ".join(f"{x},{y}" for x, y in points)
        yield f'<polyline class="{kind}" points="{path}"/>'


def _draw_boxes() -> Iterator[str]:
    for box in BOXES:
        place = f'x="{box.left}" y="{box.top}" width="{box.width}" height="{box.height}"'
        yield f'<rect class="{box.kind}" {place} rx="5"/>'
        middle = box.left + box.width // 2
        yield _write(middle, box.top + 23, box.room, "room", "middle")
        for number, line in enumerate(box.text.splitlines()):
            yield _write(middle, box.top + 43 + 18 * number, line, "", "middle")


def _draw_labels() -> Iterator[str]:
    for x, y, text in LABELS:
        yield _write(x, y, text, "label", "start")
    x, y, text = TURNED
    turned = _write(0, 0, text, "label", "middle")
    yield f'<g transform="translate({x} {y}) rotate(-90)">{turned}</g>'


def _write(x: int, y: int, text: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


if __name__ == "__main__":
    TARGET.write_text(draw(), encoding="utf-8")

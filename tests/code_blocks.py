"""Finds the code blocks of a page, and runs each as the comments before it say.

``python`` blocks are scripts of their own; ``console`` blocks are commands, with what they print.
The blocks of a document run in order in one folder. A comment before a block changes what happens:

    <!-- continues -->       the block begins with the document's python blocks so far
    <!-- file: NAME -->      the block is written to this file, and not run
    <!-- raises: TEXT -->    the script or the commands fail, with this text on standard error
    <!-- output -->          a text block: what the block before it prints
    <!-- not run: REASON -->
    <!-- section needs: MODULE -->  the blocks up to the next heading of this level are of a plugin

In what is printed, ``...`` stands for anything, and white space does not count.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
REMARK = re.compile(r"<!-- (continues|file|raises|output|not run)(?:: (.*?))? -->")

SECTION = re.compile(r"<!-- section (needs): (\w+) -->")


@dataclass
class Block:
    """A code block, and what the comments before it say."""

    where: str
    language: str
    text: str
    remarks: dict[str, str]


@dataclass
class Folder:
    """Where a document's blocks run, and what they did so far."""

    path: Path
    scripts: list[str] = field(default_factory=list)
    printed: str | None = ""

    def run(self, command: list[str] | str, wanted: str | None) -> str:
        """Run a command; it fails if, and only if, a text on standard error is wanted."""
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        ended = subprocess.run(
            command,
            shell=isinstance(command, str),
            cwd=self.path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        if wanted is None:
            assert ended.returncode == 0, ended.stderr
        else:
            assert ended.returncode != 0, "it was to fail"
            assert wanted in ended.stderr
        return ended.stdout


def find_blocks(page: Path) -> Iterator[Block]:
    """Return the code blocks of a page in order."""
    from markdown_it import MarkdownIt

    remarks: dict[str, str] = {}
    needed: dict[str, str] = {}
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "html_block":
            remarks = dict(REMARK.findall(token.content))
            needed = dict(SECTION.findall(token.content)) or needed
        elif token.type == "fence":
            line = token.map[0] + 1 if token.map else 0
            where = f"{page.relative_to(ROOT)}:{line}"
            yield Block(where, token.info.split(" ")[0], token.content, {**needed, **remarks})
            remarks = {}
        elif token.nesting >= 0 and token.type != "inline":
            remarks = {}
            needed = {} if token.tag == "h2" else needed


def run_block(block: Block, folder: Folder) -> None:
    """Run one block if it is a kind that can be run."""
    if "not run" in block.remarks:
        assert block.remarks["not run"], "a reason is missing"
    elif not is_installed(block.remarks.get("needs")):
        folder.printed = None
    elif "output" in block.remarks:
        if folder.printed is not None:
            assert_printed(folder.printed, block.text)
    elif "file" in block.remarks:
        path = folder.path / block.remarks["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
    elif block.language == "python":
        run_python(block, folder)
    elif block.language == "console":
        run_console(block, folder)
    else:
        assert block.language in ("text", "toml", "{eval-rst}", "{toctree}"), "unknown language"


def is_installed(module: str | None) -> bool:
    """Whether a module is there, or none is needed."""
    return module is None or importlib.util.find_spec(module) is not None


def run_python(block: Block, folder: Folder) -> None:
    """Run a block as a script."""
    before = folder.scripts if "continues" in block.remarks else []
    script = folder.path / f"block_{len(list(folder.path.glob('block_*.py')))}.py"
    script.write_text("\n".join([*before, block.text]), encoding="utf-8")
    folder.scripts.append(block.text)
    folder.printed = folder.run([sys.executable, script.name], block.remarks.get("raises"))


def run_console(block: Block, folder: Folder) -> None:
    """Run each command of a block, and compare what it prints with the lines that follow it."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        assert_printed(folder.run(command, block.remarks.get("raises")), expected)


def assert_printed(printed: str, expected: str) -> None:
    """Compare two texts but for white space; ``...`` stands for anything."""
    parts = [r"\s+".join(map(re.escape, part.split())) for part in expected.split("...")]
    assert re.fullmatch(".*".join(parts), printed.strip(), re.DOTALL), printed

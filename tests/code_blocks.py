"""Find the code blocks of a page, and run each as the comments before it say.

Each ``python`` block is a script; ``console`` blocks are commands with their output.
The blocks of a document run in order in one folder.  Comments before a block change what happens:

    <!-- continues -->       the block begins with the document's python blocks so far
    <!-- file: NAME -->      the block is written to this file, and not run
    <!-- raises: TEXT -->    the script or the commands fail, with this text on standard error
    <!-- output -->          a text block: the output of the block before it
    <!-- not run: REASON -->
    <!-- section needs: MODULE -->  the blocks up to the next heading of this level need a plugin's engine

In output, ``...`` stands for any text, and differences in white space do not count.
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
    """A code block, and the comments before it."""

    where: str
    language: str
    text: str
    remarks: dict[str, str]


@dataclass
class Folder:
    """The folder in which a document's blocks run, the scripts so far, and the last output."""

    path: Path
    scripts: list[str] = field(default_factory=list)
    printed: str | None = ""

    def run(self, command: list[str] | str, wanted: str | None) -> str:
        """Run a command; it must fail if, and only if, ``wanted`` is a text, which stderr must have."""
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
            assert ended.returncode != 0, "the command did not fail"
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
    """Run, write or compare one block, as its comments and its language say."""
    if "not run" in block.remarks:
        assert block.remarks["not run"], "the comment gives no reason"
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
    """Whether a module is installed, or none is needed."""
    return module is None or importlib.util.find_spec(module) is not None


def run_python(block: Block, folder: Folder) -> None:
    """Run a block as a script."""
    before = folder.scripts if "continues" in block.remarks else []
    script = folder.path / f"block_{len(list(folder.path.glob('block_*.py')))}.py"
    script.write_text("\n".join([*before, block.text]), encoding="utf-8")
    folder.scripts.append(block.text)
    folder.printed = folder.run([sys.executable, script.name], block.remarks.get("raises"))


def run_console(block: Block, folder: Folder) -> None:
    """Run each command of a block, and compare its output with the lines that follow it."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        assert_printed(folder.run(command, block.remarks.get("raises")), expected)


def assert_printed(printed: str, expected: str) -> None:
    """Compare two texts, ignoring white space; ``...`` stands for any text."""
    parts = [r"\s+".join(map(re.escape, part.split())) for part in expected.split("...")]
    assert re.fullmatch(".*".join(parts), printed.strip(), re.DOTALL), printed

"""Every code block of the documentation runs, and does what the page says.

A page that begins with ``<!-- needs: MODULE -->`` belongs to a plugin, whose session of nox runs it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from code_blocks import ROOT, Folder, find_blocks, is_installed, run_block

pytest.importorskip("markdown_it", reason="could not import 'markdown_it' (markdown-it-py)")

PAGES = sorted(
    [
        path
        for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/*.md")]
        if "_build" not in path.parts
    ]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_do_what_the_page_says(page: Path, tmp_path: Path) -> None:
    needed = re.match(r"<!-- needs: (\w+) -->", page.read_text(encoding="utf-8"))
    if needed and not is_installed(needed[1]):
        pytest.skip(f"{needed[1]} is not installed: a session of nox runs this page")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    folder = Folder(tmp_path)
    for block in find_blocks(page):
        try:
            run_block(block, folder)
        except AssertionError as error:
            raise AssertionError(f"{block.where}: {error}") from error


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target

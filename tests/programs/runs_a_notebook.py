"""Runs the cells of a file in the kernel of a notebook, and prints their output.  Argument: the file."""

from __future__ import annotations

import sys
from pathlib import Path

import nbclient
import nbformat

if __name__ == "__main__":
    texts = Path(sys.argv[1]).read_text(encoding="utf-8").split("# %%")
    book = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    book.cells = [nbformat.v4.new_code_cell(one) for one in texts]  # type: ignore[no-untyped-call]
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    print("".join(output["text"] for cell in book.cells for output in cell.outputs))

"""A notebook in a real kernel trains through the start method, from a cell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parents[3] / "docs" / "examples" / "xla.ipynb"
EXECUTE = """
import sys, nbclient, nbformat
book = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(book, timeout=90, kernel_name="python3").execute()
nbformat.write(book, sys.argv[2])
"""


def test_cells_run_as_ranks(tmp_path: Path) -> None:
    done = tmp_path / "done.ipynb"
    command = [sys.executable, "-c", EXECUTE, str(NOTEBOOK), str(done)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert ended.returncode == 0, ended.stderr
    cells = json.loads(done.read_text(encoding="utf-8"))["cells"]
    _, trained, multiplied, failed = (
        "".join(map(read_output, cell["outputs"])) for cell in cells if "outputs" in cell
    )
    assert "[(2, 0.9" in trained
    assert "[0, 10]" in multiplied
    assert "KeyError: 'rank 1 fails here'" in failed
    assert 'raise KeyError("rank 1 fails here")' in failed


def read_output(output: dict[str, Any]) -> str:
    """Return the text of one output, whatever its kind."""
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", ""))

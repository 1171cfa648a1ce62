"""Functions of a notebook's cells run as ranks, in a real kernel."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cloudpickle", reason="could not import 'cloudpickle'")
pytest.importorskip("ipykernel", reason="could not import 'ipykernel'")
pytest.importorskip("nbclient", reason="could not import 'nbclient'")

EXECUTE = """
import sys, nbclient, nbformat
book = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
nbformat.write(book, sys.argv[2])
"""
WITHOUT_CLOUDPICKLE = "import sys; sys.modules['cloudpickle'] = None"
SHOW_ERROR = """
for method in ("spawn", "forkserver"):
    try:
        run(place, ("hello",), nprocs=2, start_method=method)
    except Exception as error:
        print(type(error).__name__, error)
"""


def execute(book: Path, folder: Path) -> list[str]:
    """Run a notebook and return the output of each of its code cells, as text."""
    done = folder / "done.ipynb"
    command = [sys.executable, "-c", EXECUTE, str(book), str(done)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert ended.returncode == 0, ended.stderr
    cells = json.loads(done.read_text(encoding="utf-8"))["cells"]
    return ["".join(map(read_output, cell["outputs"])) for cell in cells if "outputs" in cell]


def read_output(output: dict[str, Any]) -> str:
    """Return the text of one output, of either kind."""
    text = output.get("text") or output.get("data", {}).get("text/plain", "")
    return "".join(text)


def rewrite(book: Path, folder: Path, **changes: str) -> Path:
    """Return a copy of a notebook that keeps its first two code cells, with cells around them."""
    content = json.loads(book.read_text(encoding="utf-8"))
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    first, last = ({**code[0], "id": name, "source": text} for name, text in changes.items())
    content["cells"] = [first, *code[:2], last]
    path = folder / "changed.ipynb"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_functions_of_cells_run_under_every_start_method(examples: Path, tmp_path: Path) -> None:
    _, _, forked, others, _, failures = execute(examples / "notebook.ipynb", tmp_path)
    for method, text in [("fork", forked), ("spawn", others), ("forkserver", others)]:
        for rank in (0, 1):
            assert f"hello from rank {rank} of 2 by {method}, scale 10" in text
    assert failures.count("ZeroDivisionError: division by zero") == 3
    assert failures.count("return share / (1 - rank)  # rank 1 fails here") == 3


def test_without_cloudpickle_the_error_names_both_remedies(examples: Path, tmp_path: Path) -> None:
    book = rewrite(
        examples / "notebook.ipynb", tmp_path, block=WITHOUT_CLOUDPICKLE, show=SHOW_ERROR
    )
    text = execute(book, tmp_path)[-1]
    assert text.count("PicklingError") == 2
    assert text.count("pip install cloudpickle") == 2
    assert text.count("start_method='fork'") == 2


@pytest.mark.skipif(
    importlib.util.find_spec("procession_xla") is None,
    reason="procession_xla is not installed: nox -s xla runs this test",
)
def test_cells_train_through_xla(examples: Path, tmp_path: Path) -> None:
    _, trained, multiplied, failed = execute(examples / "xla.ipynb", tmp_path)
    assert "[(2, 0.9" in trained
    assert "[0, 10]" in multiplied
    assert "KeyError: 'rank 1 fails here'" in failed
    assert 'raise KeyError("rank 1 fails here")' in failed

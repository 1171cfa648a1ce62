"""The examples give right results on real input, the same under every start method."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tokenize
from collections import Counter
from keyword import iskeyword
from pathlib import Path

import pytest

from procession import run

FOLDER = "json"


def count_alone(folder: str) -> Counter[str]:
    """Count identifiers without the example's code."""
    found: Counter[str] = Counter()
    for path in Path(sysconfig.get_path("stdlib"), folder).rglob("*.py"):
        with path.open("rb") as source:
            for token in tokenize.tokenize(source.readline):
                if token.type == tokenize.NAME and not iskeyword(token.string):
                    found[token.string] += 1
    return found


def procession(*arguments: str) -> str:
    """Run the command line and return what it prints."""
    command = [sys.executable, "-m", "procession", "run", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.parametrize("nprocs", [1, 2, 5])
def test_word_count_agrees_with_one_process(examples: Path, start_method: str, nprocs: int) -> None:
    import word_count

    totals, *others = run(word_count.main, (FOLDER,), nprocs, start_method=start_method)
    assert totals == count_alone(FOLDER)
    assert others == [None] * (nprocs - 1)


def test_word_count_on_the_command_line(examples: Path, start_method: str) -> None:
    target = f"{examples / 'word_count.py'}:main"
    printed = procession("-n", "3", "--start-method", start_method, target, FOLDER)
    rows = re.findall(r"^ *([\d,]+) (\w+)$", printed, re.MULTILINE)
    expected = sorted(count_alone(FOLDER).items(), key=lambda item: (-item[1], item[0]))[:10]
    assert [(name, int(number.replace(",", ""))) for number, name in rows] == expected
    reads = re.findall(r"^rank (\d): (\d+) files, (\d+) lines, [\d.]+ s$", printed, re.MULTILINE)
    files = sorted(Path(sysconfig.get_path("stdlib"), FOLDER).rglob("*.py"))
    assert [int(rank) for rank, _, _ in reads] == [0, 1, 2]
    assert sum(int(number) for _, number, _ in reads) == len(files)
    lines = sum(path.read_bytes().count(b"\n") for path in files)
    assert sum(int(number) for _, _, number in reads) == lines


def test_word_count_reads_the_whole_library(examples: Path) -> None:
    printed = procession("-n", "2", f"{examples / 'word_count.py'}:main")
    numbers = [int(number) for number in re.findall(r": (\d+) files", printed)]
    assert len(numbers) == 2
    assert sum(numbers) > 500


@pytest.mark.parametrize("nprocs", [2, 3])
def test_train_digits_learns_what_one_process_learns(
    examples: Path, start_method: str, nprocs: int
) -> None:
    pytest.importorskip("sklearn", reason="could not import 'sklearn' (pip install scikit-learn)")
    numpy = pytest.importorskip("numpy", reason="could not import 'numpy'")
    import train_digits

    [(alone, right)] = train_digits.launch(1, "fork", steps=100)
    assert right > 0.9
    for weights, _ in train_digits.launch(nprocs, start_method, steps=100):
        for one, other in zip(alone, weights, strict=True):
            numpy.testing.assert_allclose(other, one, rtol=0, atol=1e-9)


def test_train_digits_is_a_script(examples: Path) -> None:
    pytest.importorskip("sklearn", reason="could not import 'sklearn' (pip install scikit-learn)")
    command = [sys.executable, str(examples / "train_digits.py"), "2", "forkserver"]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert re.search(r"^2 ranks by forkserver: 9\d\.\d% of 1797 right$", ended.stdout, re.MULTILINE)

"""Let the contestants of a row measure in turn, each in its worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from contestants import CONTESTANTS
from rows import FEW, Answer, Row
from summaries import NOT_INSTALLED, NOT_POSSIBLE, Line, Result

HERE = Path(__file__).parent
Key = tuple[str, str]  # a contestant, and a variant of the row

_LONGEST = 600.0  # seconds that a measurement may take


class NoAnswerError(Exception):
    """A worker could not measure; the text says why."""


class Worker:
    """A contestant in its own process; close it after use."""

    def __init__(self, contestant: str, heavy: bool) -> None:
        start = ["-c", "from worker import main; main()"] if not heavy else [str(HERE / "heavy.py")]
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # torch leaves files
        self._output = tempfile.TemporaryFile()
        paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, *start, contestant],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "TMPDIR": self._folder.name,
            },
            start_new_session=True,
            text=True,
        )

    def ask(self, request: Mapping[str, object]) -> Answer:
        """Let the contestant measure once.

        Raises:
            NoAnswerError: the worker failed, ended, or took too long.
        """
        timer = threading.Timer(_LONGEST, self._kill)
        timer.start()
        try:
            line = self._exchange(json.dumps(request))
        finally:
            timer.cancel()
            timer.join()
        if not line:
            raise NoAnswerError(self._explain())
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise NoAnswerError(answer["error"])
        return answer

    def close(self) -> None:
        """End the worker and all that it started."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # it has ended already
                pipe.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()
        self._output.close()
        self._folder.cleanup()

    def _exchange(self, line: str) -> str:
        spec, answers = self._process.stdin, self._process.stdout
        assert spec is not None
        assert answers is not None
        try:
            print(line, file=spec, flush=True)
            return answers.readline()
        except BrokenPipeError:
            return ""

    def _kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)

    def _explain(self) -> str:
        code = self._process.wait()
        self._output.seek(0)
        said = self._output.read()[-2000:].decode(errors="replace")
        return f"{said}\nthe worker ended with {code}, or was ended after {_LONGEST:.0f} s"


def play(row: Row, repeat: int | None, full: bool) -> Result:
    """Measure a row in rounds; each begins with another contestant, and the first only warms up."""
    keys = [(one, variant) for one in CONTESTANTS for variant in select_variants(row, full)]
    said = {key: why for key in keys if (why := why_not(row, key[0]))}
    answers: dict[Key, list[Answer]] = {key: [] for key in keys}
    taking_part = [key for key in keys if key not in said]
    with ExitStack() as stack:
        workers = {}
        for contestant in dict.fromkeys(contestant for contestant, _ in taking_part):
            workers[contestant] = Worker(contestant, row.heavy)
            stack.callback(workers[contestant].close)
        for number, key in take_turns(row, taking_part, repeat or row.repeat):
            if key in said:
                continue
            try:
                answer = workers[key[0]].ask(row.make_request(*key))
            except NoAnswerError as error:
                said[key] = str(error)
            else:
                answers[key] += [answer] if number >= 0 else []
    return Result(row, [Line(*key, answers[key], said.get(key, "")) for key in keys])


def select_variants(row: Row, full: bool) -> list[str]:
    """Return the variants of a row that are measured."""
    return [variant for variant in row.variants if full or variant not in row.long]


def why_not(row: Row, contestant: str) -> str:
    """Return the reason why a contestant does not take part, or an empty string."""
    if contestant not in row.contestants:
        return NOT_POSSIBLE
    return "" if CONTESTANTS[contestant].is_installed else NOT_INSTALLED


def take_turns(row: Row, keys: list[Key], repeat: int) -> Iterator[tuple[int, Key]]:
    """Return the number of each round and the contestant whose turn it is; round -1 does not count."""
    for number in range(0 if row.cold else -1, repeat):
        start = max(number, 0) % max(len(keys), 1)
        for key in keys[start:] + keys[:start]:
            if number < FEW or key[0] not in row.slow:
                yield number, key

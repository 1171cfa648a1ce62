"""A launch uses the right client, and its error says why if there is none that it can use."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import dask_ranks
from dask_cluster import find_port, get_client, get_cluster
from procession import BackendUnavailableError, run
from procession_dask.answers import find_problem
from procession_dask.clients import load
from procession_dask.worker import VERSION

LOOK = """
import sys, time
if sys.argv[1:]:
    sys.modules["distributed"] = None
from procession_dask.backend import DaskBackend
backend = DaskBackend()
begun = time.perf_counter()
found = backend.availability()
took = time.perf_counter() - begun
print(found.ok, took < 0.005, [*filter(sys.modules.get, ("distributed", "dask", "asyncio"))])
print(found.reason, found.hint)
"""
BOOK = """
from distributed import Client
from procession import run
client = Client({address!r})
scale = 10
def multiply(rank, number):
    return rank * number * scale
print(run(multiply, (3,), 2, start_method="dask", options={{"workers": {workers}}}))
client.close()
"""
EXECUTE = """
import sys, nbclient, nbformat
book = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
print(book.cells[0].outputs[0].text)
"""


def fail(error: type[Exception], match: str, **options: Any) -> None:
    with pytest.raises(error, match=match):
        run(dask_ranks.double, (1,), 2, start_method="dask", options=options)


def test_availability_imports_nothing() -> None:
    assert look()[0] == "True True []"


def test_availability_names_what_is_missing() -> None:
    first, second = look("hide")
    assert first == "False True []"
    assert second == "Dask is not installed pip install distributed"


def test_an_address_without_a_listener_is_an_error() -> None:
    address = f"tcp://127.0.0.1:{find_port()}"
    begun = time.monotonic()
    fail(
        BackendUnavailableError,
        f"no Dask scheduler answers at '{address}'.*refused",
        address=address,
    )
    assert time.monotonic() - begun < 5


def test_an_address_of_another_server_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        begun = time.monotonic()
        fail(BackendUnavailableError, f"no Dask scheduler answers at '{address}'", address=address)
        assert time.monotonic() - begun < 5


def test_a_launch_without_a_client_is_an_error() -> None:
    fail(ValueError, r"finds no client: make a distributed\.Client first")


def test_a_closed_client_is_an_error() -> None:
    client = load().Client(get_cluster().address, set_as_default=False)
    client.close()
    fail(
        BackendUnavailableError,
        r"the client is not connected to a scheduler \(closed\)",
        client=client,
    )


def test_an_asynchronous_client_is_refused() -> None:
    async def main() -> None:
        distributed = load()
        address = get_cluster().address
        async with distributed.Client(address, asynchronous=True, set_as_default=False) as client:
            fail(ValueError, "without asynchronous=True", client=client)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (TypeError, r"options\['client'\] must be a distributed\.Client, not 1", {"client": 1}),
        (TypeError, r"options\['address'\] must be a str, not 8786", {"address": 8786}),
        (ValueError, "'127.0.0.1:no' is not an address", {"address": "127.0.0.1:no"}),
        (ValueError, "either 'client' or 'address'", {"client": 1, "address": "tcp://127.0.0.1:1"}),
        (TypeError, r"options\['workers'\] must be a list", {"workers": "tcp://127.0.0.1:1"}),
        (ValueError, r"options\['transport'\] must be 'auto' or", {"transport": "mail"}),
        (ValueError, "python", {"python": "python3"}),
    ],
)
def test_bad_options_are_refused(
    error: type[Exception], match: str, options: dict[str, Any]
) -> None:
    fail(error, match, **options)


def test_a_worker_of_another_version_is_named() -> None:
    other = {"version": [*VERSION[:-1], 7], "host": "far", "reaches": True}
    assert find_problem(["tcp://far:1"], {"tcp://far:1": other}, "auto").startswith(
        f"worker tcp://far:1 runs Python 3.7, and this is 3.{sys.version_info[1]}"
    )


def test_ranks_can_call_functions_of_a_notebook(tmp_path: Path) -> None:
    for module in ("ipykernel", "nbclient", "nbformat"):
        pytest.importorskip(module)
    source = BOOK.format(address=get_cluster().address, workers=[*get_client().nthreads()])
    cell = {"cell_type": "code", "id": "one", "metadata": {}, "outputs": [], "source": source}
    book = {"cells": [{**cell, "execution_count": None}], "metadata": {}}
    path = tmp_path / "book.ipynb"
    path.write_text(json.dumps({**book, "nbformat": 4, "nbformat_minor": 5}))
    assert execute(EXECUTE, str(path)) == ["[0, 30]"]


def look(*arguments: str) -> list[str]:
    return execute(LOOK, *arguments)


def execute(source: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-c", source, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [line.strip() for line in done.stdout.strip("\n").split("\n")]

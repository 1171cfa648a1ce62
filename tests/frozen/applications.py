"""Frozen applications and zipapps run as the docs say.

``nox -s frozen`` runs this file, which is not part of the suite because it needs PyInstaller.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipapp
from importlib.metadata import distributions, files, requires
from pathlib import Path

import pytest

import procession
from code_blocks import Folder, find_blocks, run_block
from installing import install, write_plugin

pytest.importorskip(
    "PyInstaller", reason="could not import 'PyInstaller' (pip install pyinstaller)"
)

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("frozen_script.py")
START_METHODS = ("fork", "spawn", "forkserver", "echo-process")


@pytest.fixture(scope="module", params=["onedir", "onefile", "zipapp"])
def application(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """The command of an application of each kind, which contains a plugin."""
    folder = tmp_path_factory.mktemp(request.param)
    return zip_script(folder) if request.param == "zipapp" else freeze_script(folder, request.param)


frozen_only = pytest.mark.parametrize("application", ["onedir", "onefile"], indirect=True)


def freeze_script(folder: Path, kind: str) -> list[str]:
    """Make an executable of the script by PyInstaller."""
    plugins = install(folder / "plugins", "procession-test-echo")
    variables = {"PYTHONPATH": str(plugins), "PYINSTALLER_CONFIG_DIR": str(folder / "cache")}
    subprocess.run(
        [sys.executable, "-m", "PyInstaller", "--log-level", "ERROR", f"--{kind}", SCRIPT],
        cwd=folder,
        env={**os.environ, **variables},
        check=True,
        timeout=170,
    )
    made = folder / "dist" / SCRIPT.stem
    return [str(made / SCRIPT.stem if made.is_dir() else made)]


MAIN = "import sys, frozen_script\nfrozen_script.main(*sys.argv[1:])\n"


def zip_script(folder: Path, main: str = MAIN) -> list[str]:
    """Make an archive of the script and all it needs, run by an interpreter without site-packages."""
    content = install(folder / "content", "procession-test-echo", str(ROOT))
    copy_requirements("procession", content)
    shutil.copy(SCRIPT, content)
    content.joinpath("__main__.py").write_text(main)
    zipapp.create_archive(content, folder / "application.pyz")
    return [sys.executable, "-I", "-S", str(folder / "application.pyz")]


def copy_requirements(name: str, target: Path) -> None:
    """Copy the requirements of a distribution, and theirs in turn, from this environment."""
    for line in requires(name) or ():
        needed = re.split(r"[^\w.-]", line)[0]
        if "extra ==" in line or not any(distributions(name=needed)):
            continue  # of an extra, or needed by another version of Python only
        for file in files(needed) or ():
            if ".." not in file.parts:
                target.joinpath(file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file.locate(), target / file)
        copy_requirements(needed, target)


@pytest.fixture(params=START_METHODS)
def start_method(request: pytest.FixtureRequest) -> str:
    """Three built-in start methods, and the plugin's."""
    return str(request.param)


def run(
    command: list[str], *arguments: str, cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run an application as a user without Python would."""
    environment = {name: os.environ[name] for name in ("PATH", "TMPDIR")}
    return subprocess.run(
        [*command, *arguments],
        cwd=cwd,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def test_the_commands_of_the_docs_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite runs only the blocks that do not need PyInstaller."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("PYINSTALLER_CONFIG_DIR", str(tmp_path / "cache"))
    blocks = list(find_blocks(ROOT / "docs" / "how-to" / "freeze.md"))
    assert [block.language for block in blocks] == ["python", "console"]
    folder = Folder(tmp_path)
    for block in blocks:
        block.remarks.pop("not run", None)
        run_block(block, folder)


def test_ranks_return_and_launch(application: list[str], start_method: str, tmp_path: Path) -> None:
    done = run(application, "return", start_method, cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "[(10, 'red'), (11, 'red')]",
        "[(1048576, 0), (1048576, 1)]",
        "[[(0, None), (1, None)], [(10, None), (11, None)]]",
    ], done.stderr
    assert done.returncode == 0


def test_a_failing_rank_shows_its_traceback(
    application: list[str], start_method: str, tmp_path: Path
) -> None:
    done = run(application, "fail", start_method, cwd=tmp_path)
    assert done.returncode == 1
    _, _, message = done.stderr.partition("ProcessRaisedException: ")
    assert "-- Process 1 terminated with the following error:" in message
    assert re.search(r'File ".*", line \d+, in fail\n', message)
    assert "\nValueError: no such file\n" in message


def test_a_signal_that_kills_a_rank_is_named(
    application: list[str], start_method: str, tmp_path: Path
) -> None:
    done = run(application, "die", start_method, cwd=tmp_path)
    assert done.returncode == 1
    assert "ProcessExitedException: " in done.stderr
    assert re.search(r"process \d terminated with signal SIGKILL\n", done.stderr)


def test_a_deadline_stops_ranks(application: list[str], start_method: str, tmp_path: Path) -> None:
    done = run(application, "wait", start_method, cwd=tmp_path)
    assert "the launch did not end within 0.1 s: stopped rank 0, 1" in done.stdout, done.stderr
    assert done.returncode == 0


def test_backends_are_listed(application: list[str], tmp_path: Path) -> None:
    version, *lines = run(application, "list", cwd=tmp_path).stdout.splitlines()
    assert version == procession.__version__
    assert lines.pop() == "echo-process third-party procession-test-echo 1.0 not loaded "
    assert [line.partition(version)[0] for line in lines] == [
        f"{name} built-in procession " for name in ("fork", "spawn", "forkserver", "command")
    ]
    frozen = "-S" not in application
    command = lines.pop()
    reason = "through multiprocessing: the application is frozen"
    assert all((reason in line) == frozen for line in lines)
    assert ("unavailable the application is frozen" in command) == frozen, command


@frozen_only
def test_a_frozen_application_ignores_plugins_that_are_installed_later(
    application: list[str], tmp_path: Path
) -> None:
    write_plugin(tmp_path, "late", "late-method", "late_plugin")
    listed = run(application, "list", cwd=tmp_path, PYTHONPATH=str(tmp_path)).stdout
    assert "echo-process" in listed
    assert "late" not in listed


@frozen_only
def test_frozen_applications_leave_out_modules_for_development(
    application: list[str], tmp_path: Path
) -> None:
    names = "procession.cli,procession._pyinstaller,procession.testing,PyInstaller,pytest"
    assert run(application, "find", names, cwd=tmp_path).stdout == "['procession.cli']\n"


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_zipapp_whose_ranks_cannot_import_their_function_says_so(
    start_method: str, tmp_path: Path
) -> None:
    zipped = zip_script(tmp_path, SCRIPT.read_text())
    done = run(zipped, "return", start_method, cwd=tmp_path)
    assert "PicklingError" in done.stderr
    assert "the __main__.py of a package or an archive" in done.stderr


@frozen_only
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_frozen_script_without_freeze_support_stops_at_its_second_run(
    application: list[str], start_method: str, tmp_path: Path
) -> None:
    done = run(application, cwd=tmp_path, FORGETFUL=start_method)
    assert set(done.stdout.split()) == {"1", "2"}
    assert "a frozen application must call multiprocessing.freeze_support()" in done.stderr
    assert done.returncode == 1

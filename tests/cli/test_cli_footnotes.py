"""`procession backends` says which start method is the default, and which plugins are not installed."""

from __future__ import annotations

import pytest

from procession import __version__
from procession.cli import main


def test_the_default_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backends"]) == 0
    assert "The default is spawn." in capsys.readouterr().out


def test_the_default_of_the_environment_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCESSION_START_METHOD", "fork")
    assert main(["backends"]) == 0
    line = "The default is spawn; start_method=None is 'fork' (PROCESSION_START_METHOD)."
    assert line in capsys.readouterr().out


def test_plugins_that_are_not_installed_are_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCESSION_PLUGINS", "none")  # hides installed ones
    assert main(["backends"]) == 0
    assert "Not installed: dask (procession-dask), " in capsys.readouterr().out


def test_the_option_version_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"procession {__version__}\n"

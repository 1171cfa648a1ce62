"""The catalog chooses the distribution that provides a start method; plugins are folders of metadata."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
from pathlib import Path

import pytest

from installing import TORCH_KILLER, WritePlugin, listed, status_of, write_distribution
from procession import (
    AmbiguousBackendError,
    UnknownBackendError,
    get_backend,
    list_backends,
)
from procession._registry.builtin import BUILT_IN
from procession._registry.catalog import FIRST_PARTY
from procession._registry.listing import check_backend

# Names that two distributions claim


def test_a_name_that_two_distributions_claim_is_ambiguous(plugin: WritePlugin) -> None:
    plugin("one", "both")
    plugin("two", "both")
    with pytest.raises(AmbiguousBackendError, match="'one:both' or 'two:both'") as caught:
        get_backend("both")
    assert [name for name, _ in caught.value.candidates] == ["one", "two"]
    assert get_backend("one:both") is not get_backend("two:both")
    assert [(i.status, i.reason, i.hint) for i in listed("both")] == [
        ("ambiguous", "also provided by two", "use 'one:both'"),
        ("ambiguous", "also provided by one", "use 'two:both'"),
    ]
    assert check_backend("both").status == "ambiguous"


def test_two_claims_with_the_same_target_are_not_ambiguous(site: Path, plugin: WritePlugin) -> None:
    module = plugin("one", "same")
    write_distribution(site, "two", {"same": f"{module}:Backend"})
    assert get_backend("same") is get_backend("two:same")
    assert status_of("same") == ["ok", "shadowed"]


def test_an_ambiguous_name_does_not_affect_other_names(plugin: WritePlugin) -> None:
    plugin("one", "both")
    plugin("two", "both")
    plugin("three", "other")
    assert get_backend("other").name == "other"


def test_the_first_version_on_the_path_is_used(
    site: Path, plugin: WritePlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = plugin("twice", "twice")
    later = site / "later"
    write_distribution(later, "twice", {"twice": "other:Backend"}, version="2.0")
    monkeypatch.setattr(sys, "path", [*sys.path, str(later)])
    assert type(get_backend("twice")).__module__ == module
    assert status_of("twice") == ["ok", "shadowed"]


# First-party names


def test_the_error_of_a_first_party_name_says_what_to_install(site: Path) -> None:
    for name, distribution in FIRST_PARTY.items():
        with pytest.raises(
            UnknownBackendError, match=rf"pip install \./plugins/{distribution} in a clone"
        ) as caught:
            get_backend(name)
        assert caught.value.install == distribution


def test_a_third_party_cannot_take_a_first_party_name(plugin: WritePlugin) -> None:
    plugin("taker", "mpi")
    with pytest.raises(UnknownBackendError) as caught:
        get_backend("mpi")
    assert caught.value.install == "procession-mpi"
    assert "taker provides it, but the name is reserved" in caught.value.because
    assert status_of("mpi") == ["shadowed"]
    plugin("procession-mpi", "mpi")
    assert get_backend("mpi") is get_backend("procession-mpi:mpi")
    assert get_backend("taker:mpi") is not get_backend("mpi")
    assert sorted(status_of("mpi")) == ["ok", "shadowed"]


def test_a_first_party_name_reads_one_distribution(site: Path, plugin: WritePlugin) -> None:
    write_distribution(site, "killer", text=TORCH_KILLER)  # reading it would warn
    plugin("procession-ray", "ray")
    assert get_backend("ray").name == "ray"
    info = check_backend("ray")
    assert (info.origin, info.distribution) == ("first-party", "procession-ray")


# Unknown names


def test_the_error_of_an_unknown_name_suggests_a_similar_one(plugin: WritePlugin) -> None:
    plugin("some", "some-engine")
    with pytest.raises(UnknownBackendError) as caught:
        get_backend("some-engin")
    error = caught.value
    assert isinstance(error, ValueError)
    assert (error.name, error.suggestion, error.install) == ("some-engin", "some-engine", None)
    assert {"fork", "spawn", "forkserver", "some-engine"} <= set(error.known)
    assert "(did you mean 'some-engine'?)" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_error_of_a_misspelt_first_party_name_says_what_to_install(site: Path) -> None:
    with pytest.raises(UnknownBackendError) as caught:
        get_backend("slrum")
    assert (caught.value.suggestion, caught.value.install) == ("slurm", "procession-slurm")


@pytest.mark.parametrize("name", [":fork", "fork:", ":", "", "a:b:fork", "none:fork", "../x:y"])
def test_malformed_names_are_unknown(site: Path, name: str) -> None:
    with pytest.raises(UnknownBackendError):
        get_backend(name)


@pytest.mark.parametrize("value", [3, b"fork", ["fork"], abs, multiprocessing])
def test_a_value_that_is_no_name_and_no_backend_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match="start_method"):
        get_backend(value)  # type: ignore[arg-type]


# The allow list


def test_only_listed_distributions_are_used(
    plugin: WritePlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin("listed", "good")
    plugin("other", "bad")
    plugin("procession-mpi", "mpi")
    monkeypatch.setenv("PROCESSION_PLUGINS", " Listed , no-such ")
    assert get_backend("good").name == "good"
    for name, distribution in {
        "bad": "other",
        "other:bad": "other",
        "mpi": "procession-mpi",
    }.items():
        with pytest.raises(UnknownBackendError, match="PROCESSION_PLUGINS does not list") as caught:
            get_backend(name)
        assert caught.value.install is None
        assert f"add {distribution} to PROCESSION_PLUGINS" in caught.value.because
    assert status_of("bad") == ["not allowed"]


def test_the_list_resolves_an_ambiguity(
    plugin: WritePlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin("one", "both")
    module = plugin("two", "both")
    monkeypatch.setenv("PROCESSION_PLUGINS", "two")
    assert type(get_backend("both")).__module__ == module


def test_the_list_none_forbids_all_plugins_and_reads_no_metadata(
    site: Path, plugin: WritePlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_distribution(site, "killer", text=TORCH_KILLER)  # reading it would warn
    plugin("some", "some")
    monkeypatch.setenv("PROCESSION_PLUGINS", "none")
    for name in ("some", "some:some", "mpi"):
        with pytest.raises(UnknownBackendError, match="PROCESSION_PLUGINS is 'none'") as caught:
            get_backend(name)
        assert caught.value.install is None
    assert get_backend("spawn").name == "spawn"
    assert [info.name for info in list_backends()] == list(BUILT_IN)


@pytest.mark.parametrize("value", ["", "a,", "a b", "none,a", "-x", "a;b"])
def test_an_invalid_list_is_refused(
    site: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("PROCESSION_PLUGINS", value)
    with pytest.raises(ValueError, match=r"PROCESSION_PLUGINS=.* is not a distribution name"):
        get_backend("some")
    assert get_backend("spawn").name == "spawn"

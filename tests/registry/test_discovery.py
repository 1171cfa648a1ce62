"""The registry reads entry points from folders of metadata, well-formed or not."""

from __future__ import annotations

import os
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from installing import GROUP, TORCH_KILLER, run_python, write_distribution
from procession._registry import entry_points
from procession._registry.entry_points import Claim, Scan

Read = Callable[[], Scan]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on `sys.path`, for distributions."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    entry_points.refresh()
    return folder


@pytest.fixture
def read(site: Path) -> Read:
    """Read all distributions, and return the claims and defects of those in the folder of the test."""

    def read_site() -> Scan:
        entry_points.refresh()
        scan = next(entry_points.scans())
        below = str(site.parent)
        return Scan(
            tuple(claim for claim in scan.claims if claim.path.startswith(below)),
            tuple(defect for defect in scan.defects if defect.path.startswith(below)),
        )

    return read_site


def names(scan: Scan) -> list[str]:
    return [f"{each.distribution} {each.version} {each.method}" for each in scan.claims]


def test_a_claim_has_all_that_the_registry_needs(site: Path, read: Read) -> None:
    info = write_distribution(site, "Good.Plugin", {"good": "good_plugin:Backend"}, version="2.1")
    (claim,) = read().claims
    assert claim == Claim("good", "good_plugin:Backend", "good-plugin", "2.1", str(info))


def test_other_groups_and_comments_are_ignored(site: Path, read: Read) -> None:
    text = f"# a = b\n[console_scripts]\nx = y:z\n\n[{GROUP}]\n  # c\n good=a:b [extra]\n[z]\nq=r\n"
    write_distribution(site, "mixed", text=text)
    (claim,) = read().claims
    assert (claim.method, claim.target) == ("good", "a:b [extra]")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TORCH_KILLER, "line 3 has no '=': 'this line has no equals sign'"),
        (f"[{GROUP}]\nbad\n", "line 2 has no '=': 'bad'"),
        (f"[{GROUP}]\nbad = \xe9:x\n".encode("latin-1"), "UnicodeDecodeError"),
        (f"[{GROUP}]\nbad = a:b\nbad = a:c\n", "line 3 claims 'bad' a second time"),
    ],
    ids=["torch-killer", "own group", "not UTF-8", "twice"],
)
def test_a_malformed_file_causes_one_warning_that_names_it(
    site: Path, read: Read, text: str | bytes, reason: str
) -> None:
    info = write_distribution(site, "malformed", text=text)
    write_distribution(site, "good", {"good": "good:Backend"})
    with pytest.warns(RuntimeWarning) as caught:
        scan = read()
    assert "good 1.0 good" in names(scan)
    (message,) = (str(each.message) for each in caught)
    assert "malformed" in message
    assert str(info) in message
    assert reason in message
    (defect,) = scan.defects
    assert defect.distribution == "malformed"
    assert defect.relevant == (text is not TORCH_KILLER)


def test_entry_points_of_importlib_metadata_fails_on_the_torch_killer(site: Path) -> None:
    write_distribution(site, "killer", text=TORCH_KILLER)
    code = "from importlib.metadata import entry_points; entry_points()"
    assert "TypeError" in run_python("-c", code, path=site).stderr


def test_the_claims_of_a_malformed_file_have_a_problem(site: Path, read: Read) -> None:
    write_distribution(site, "malformed", text=f"[{GROUP}]\nhalf = a:b\n<<<<<<< HEAD\n")
    with pytest.warns(RuntimeWarning, match="malformed"):
        (claim,) = read().claims
    assert claim.method == "half"
    assert "<<<<<<< HEAD" in claim.problem


def test_a_warning_is_raised_once(site: Path) -> None:
    write_distribution(site, "killer", text=TORCH_KILLER)
    with pytest.warns(RuntimeWarning, match="killer"):
        assert list(entry_points.scans())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(entry_points.scans())


def test_a_warning_that_is_an_error_is_raised_once(site: Path) -> None:
    write_distribution(site, "killer", text=TORCH_KILLER)
    with pytest.raises(RuntimeWarning, match="killer"):
        next(entry_points.scans())
    assert next(entry_points.scans())


@pytest.mark.parametrize("folder", [".dist-info", "~lugin-1.0.dist-info", "-1.0.dist-info"])
def test_a_folder_without_a_name_is_ignored(site: Path, read: Read, folder: str) -> None:
    write_distribution(site, "leftover", {"left": "over:Backend"}, metadata=False, folder=folder)
    assert read() == Scan()


def test_a_claim_is_read_without_a_metadata_file(site: Path, read: Read) -> None:
    write_distribution(site, "bare", {"bare": "bare:Backend"}, version="3.0", metadata=False)
    assert names(read()) == ["bare 3.0 bare"]


def test_a_file_in_place_of_a_folder_is_ignored(site: Path, read: Read) -> None:
    site.joinpath("flat-1.0.egg-info").write_text("Metadata-Version: 1.0\nName: flat\n")
    site.joinpath("file-1.0.dist-info").write_bytes(b"\xff")
    assert read() == Scan()


def test_the_first_version_on_the_path_shadows_the_next(
    site: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = site.parent / "first"
    write_distribution(first, "twice", {"old": "old:Backend"}, version="1.0")
    write_distribution(site, "twice", {"new": "new:Backend"}, version="2.0")
    monkeypatch.syspath_prepend(str(first))
    claims = {claim.method: claim.shadowed for claim in read().claims}
    assert claims == {"old": False, "new": True}


def test_a_version_without_claims_shadows_too(
    site: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = site.parent / "first"
    write_distribution(first, "twice", version="1.0")
    write_distribution(site, "twice", {"new": "new:Backend"}, version="2.0")
    monkeypatch.syspath_prepend(str(first))
    assert [claim.shadowed for claim in read().claims] == [True]


def test_the_newest_of_several_versions_in_one_folder_wins(site: Path, read: Read) -> None:
    for version in ("1.9", "1.10", "1.2"):
        write_distribution(site, "twice", {"it": f"v{version}:Backend"}, version=version)
    assert [each.version for each in read().claims if not each.shadowed] == ["1.10"]


def test_an_intact_version_wins_over_a_leftover(site: Path, read: Read) -> None:
    write_distribution(site, "twice", {"it": "new:Backend"}, version="2.0", metadata=False)
    write_distribution(site, "twice", {"it": "old:Backend"}, version="1.0")
    assert [each.version for each in read().claims if not each.shadowed] == ["1.0"]


def test_a_malformed_version_that_is_shadowed_causes_no_warning(site: Path, read: Read) -> None:
    write_distribution(site, "twice", text=TORCH_KILLER, version="1.0")
    write_distribution(site, "twice", {"it": "new:Backend"}, version="2.0")
    scan = read()
    assert names(scan) == ["twice 2.0 it"]
    assert not scan.defects


def test_an_editable_install_is_found(site: Path, read: Read) -> None:
    source = site.parent / "source"
    source.joinpath("edit").mkdir(parents=True)
    site.joinpath("__editable__.edit.pth").write_text(f"{source}\n")
    write_distribution(site, "edit", {"edit": "edit:Backend"})
    assert names(read()) == ["edit 1.0 edit"]


def test_a_development_install_is_found(
    site: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = site.parent / "source"
    info = write_distribution(source, "dev", {"dev": "dev:Backend"}, folder="dev.egg-info")
    info.joinpath("METADATA").rename(info / "PKG-INFO")
    monkeypatch.syspath_prepend(str(source))
    assert names(read()) == ["dev 1.0 dev"]


def test_a_zipped_distribution_is_found(tmp_path: Path) -> None:
    archive = tmp_path / "app.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped-4.0.dist-info/METADATA", "Name: zipped\nVersion: 4.0\n")
        file.writestr("zipped-4.0.dist-info/entry_points.txt", f"[{GROUP}]\nzip = z:B\n")
    code = "from procession._registry.entry_points import scans; print(next(scans()).claims)"
    out = run_python("-c", code, path=archive).stdout
    assert "method='zip', target='z:B', distribution='zipped', version='4.0'" in out


def test_a_missing_archive_is_not_opened(tmp_path: Path) -> None:
    """`sys.path` names Python's own archive, often missing; `importlib_metadata` would try to open it."""
    missing = tmp_path / "no-such.zip"
    code = (
        "import sys; opened = []\n"
        "sys.addaudithook(lambda event, args: event == 'open' and opened.append(str(args[0])))\n"
        "from procession._registry.entry_points import scans; next(scans())\n"
        f"print(opened.count({str(missing)!r}), len(opened) > 0)"
    )
    assert run_python("-c", code, path=missing).stdout == "0 True\n"


def test_a_finder_that_fails_causes_a_warning(
    site: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Finder:
        def find_spec(self, *arguments: object) -> None:
            return None

        def find_distributions(self, context: object) -> None:
            raise OSError("the finder is broken")

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    write_distribution(site, "good", {"good": "good:Backend"})
    with pytest.warns(RuntimeWarning, match="Finder.*OSError: the finder is broken"):
        assert names(read()) == ["good 1.0 good"]


def test_a_folder_that_is_twice_on_the_path_counts_once(
    site: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_distribution(site, "good", {"good": "good:Backend"})
    monkeypatch.syspath_prepend(str(site))
    assert names(read()) == ["good 1.0 good"]


def test_the_memo_holds_until_the_path_changes(
    site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = next(entry_points.scans())
    write_distribution(site, "late", {"late": "late:Backend"})
    assert next(entry_points.scans()) is first
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "late 1.0 late" in names(next(entry_points.scans()))


def test_the_scan_after_the_remembered_one_is_new(site: Path) -> None:
    next(entry_points.scans())
    write_distribution(site, "late", {"late": "late:Backend"})
    known, fresh = entry_points.scans()
    assert names(known) != names(fresh)
    assert "late 1.0 late" in names(fresh)
    assert next(entry_points.scans()) is fresh


def test_without_a_memo_there_is_one_scan(site: Path) -> None:
    assert len(list(entry_points.scans())) == 1


def test_one_distribution_is_read_alone(site: Path) -> None:
    write_distribution(site, "killer", text=TORCH_KILLER)
    write_distribution(site, "some.One", {"it": "one:Backend"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names(next(entry_points.scans("some-one"))) == ["some-one 1.0 it"]
        assert next(entry_points.scans("no-such-distribution")) == Scan()


def test_a_distribution_that_was_missing_is_found_later(site: Path) -> None:
    assert not next(entry_points.scans("late")).claims
    write_distribution(site, "late", {"late": "late:Backend"})
    assert next(entry_points.scans("late")).claims


def test_unreadable_folders_are_ignored(
    site: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        monkeypatch.syspath_prepend("/proc/1/mem")
    closed = site.parent / "closed"
    closed.mkdir(mode=0)
    monkeypatch.syspath_prepend(str(closed))
    monkeypatch.syspath_prepend(str(site / "does not exist"))
    assert read() == Scan()


def test_built_ins_are_listed_without_importlib_metadata() -> None:
    """A frozen application may lack it."""
    code = (
        "import sys; sys.modules['importlib_metadata'] = None\n"
        "from procession import list_backends; print([b.name for b in list_backends()])"
    )
    ended = run_python("-c", code)
    assert ended.stdout == "['fork', 'spawn', 'forkserver', 'command']\n", ended.stderr
    assert "importlib_metadata" in ended.stderr

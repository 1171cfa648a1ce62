"""Valid options are read, and the error of a bad one names it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from procession_xla import plan_environments
from procession_xla.options import BASES, FRAMEWORKS, NAMES, PLATFORMS, Options, read_options

CHOICE = (ValueError, "must be one of")
FLAG = (TypeError, "must be a bool")
NO_INT = (TypeError, "must be an int")
TOO_SMALL = (ValueError, "must be at least 1")
NO_DEVICES = (TypeError, "must be a number or a list of indices or UUIDs")
ADDRESS = (ValueError, "must be 'host:port'")
NO_NAMES = (TypeError, "must be a list of module names")
BOUNDS = (ValueError, "must be three or four numbers such as '2,2,1'")

COUNTS = ("devices_per_rank", "initialization_timeout", "heartbeat_timeout", "shutdown_timeout")
TPU_BOUNDS = ("tpu_process_bounds", "tpu_chips_per_process_bounds")


def test_options_have_defaults() -> None:
    assert read_options({}) == Options()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("base", base) for base in BASES],
        *[("platform", platform) for platform in (None, *PLATFORMS)],
        *[("framework", framework) for framework in FRAMEWORKS],
        *[(name, count) for name in COUNTS for count in (1, 1000)],
        *[("distributed", flag) for flag in (None, True, False)],
        *[("preemption_service", flag) for flag in (True, False)],
        *[("devices", devices) for devices in (None, 1, 8)],
        *[("coordinator", one) for one in (None, "10.0.0.1:1", "a.b:65535", "[::1]:80")],
        *[("preload", names) for names in ((), ("numpy", "a.b"))],
        *[(name, bounds) for name in TPU_BOUNDS for bounds in (None, "2,2,1", "16,4,1,2")],
    ],
)
def test_valid_values_are_kept(name: str, value: object) -> None:
    assert getattr(read_options({name: value}), name) == value


@pytest.mark.parametrize(
    ("devices", "kept"),
    [
        ([0, 3], ("0", "3")),
        ((2, 1), ("2", "1")),
        (["2", 0], ("2", "0")),
        (["GPU-a", "MIG-b"], ("GPU-a", "MIG-b")),
    ],
)
def test_listed_devices_keep_their_order(devices: object, kept: tuple[str, ...]) -> None:
    assert read_options({"devices": devices}).devices == kept


def test_modules_can_be_a_list() -> None:
    assert read_options({"preload": ["numpy"]}).preload == ("numpy",)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        *[("base", value, CHOICE) for value in ("exec", "", None, 3, ["spawn"])],
        *[("platform", value, CHOICE) for value in ("gpu", "CPU", "", 3, ["cpu"])],
        *[("framework", value, CHOICE) for value in ("torch", "auto", "", None, 3)],
        *[("distributed", value, FLAG) for value in (0, 1, "yes", 1.0)],
        *[("preemption_service", value, FLAG) for value in (0, 1, "yes", None)],
        *[(name, value, NO_INT) for name in COUNTS for value in ("2", 2.0, True, None, [2])],
        *[(name, value, TOO_SMALL) for name in COUNTS for value in (0, -1)],
        *[("devices", value, TOO_SMALL) for value in (0, -1)],
        *[("devices", value, NO_DEVICES) for value in (True, 2.0, "0,1", "GPU-a", {0, 1}, {0: 1})],
        *[("devices", [value], NO_DEVICES) for value in (-1, True, 1.0, None, "", "0,1", [0])],
        ("devices", [], (ValueError, "at least one device")),
        ("devices", (), (ValueError, "at least one device")),
        *[("devices", value, (ValueError, "none twice")) for value in ([1, 1], [1, "1"])],
        *[("coordinator", value, ADDRESS) for value in ("", "host", "host:", ":80", 80, b"a:1")],
        *[("coordinator", f"host:{port}", ADDRESS) for port in ("0", "65536", "-1", "http")],
        *[("preload", value, NO_NAMES) for value in ("numpy", [1], None, {"numpy"})],
        *[(name, value, BOUNDS) for name in TPU_BOUNDS for value in ("", "2", "2,2", "2,2,1,1,1")],
        *[(name, value, BOUNDS) for name in TPU_BOUNDS for value in ("2,0,1", "2,,1", "a,b,c")],
        *[(name, value, BOUNDS) for name in TPU_BOUNDS for value in (221, (2, 2, 1), "2,-2,1")],
    ],
)
def test_the_error_of_a_bad_value_names_its_option(
    name: str, value: object, problem: tuple[type[Exception], str]
) -> None:
    kind, message = problem
    with pytest.raises(kind) as caught:
        read_options({name: value})
    assert str(caught.value).startswith(f"options['{name}'] ")
    assert message in str(caught.value)


def test_every_option_is_in_the_guide() -> None:
    guide = Path(__file__).parents[3] / "docs" / "how-to" / "xla.md"
    table = guide.read_text().partition("\n## Options\n")[2].partition("\n## ")[0]
    named: set[str] = set()
    for line in table.splitlines():
        if line.startswith("| `"):
            named |= set(re.findall(r"`(\w+)`", line.split("|")[1]))
    assert named == NAMES


def test_a_negative_index_is_refused_also_as_text() -> None:
    with pytest.raises((TypeError, ValueError), match=r"options\['devices'\]"):
        read_options({"devices": ["-1"]})


def test_each_option_has_a_reader() -> None:
    for name in NAMES:
        with pytest.raises((TypeError, ValueError), match=rf"options\['{name}'\]"):
            read_options({name: object()})


@pytest.mark.parametrize("name", ["device", "Platform", "nprocs", "", "env"])
def test_the_error_of_an_unknown_option_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match="'xla' does not know") as caught:
        read_options({"platform": "cpu", name: 1})
    assert repr(name) in str(caught.value)
    assert str(sorted(NAMES)) in str(caught.value)


def test_an_unknown_option_is_found_before_a_bad_one() -> None:
    with pytest.raises(ValueError, match="does not know 'device'"):
        read_options({"platform": "vax", "device": 1})


def test_distributed_is_refused_for_torch_xla() -> None:
    with pytest.raises(ValueError, match=r"^options\['distributed'\] .*torch_xla.*xla://"):
        read_options({"distributed": True, "framework": "torch_xla"})


@pytest.mark.parametrize("distributed", [False, None])
def test_torch_xla_accepts_no_distributed(distributed: bool | None) -> None:
    options = read_options({"distributed": distributed, "framework": "torch_xla"})
    assert options.framework == "torch_xla"


@pytest.mark.parametrize(
    "options", [{"devices": True}, {"platform": "vax"}, {"device": 1}, {"coordinator": "here"}]
)
def test_a_dry_run_refuses_what_a_launch_refuses(options: dict[str, Any], tmp_path: Path) -> None:
    (name,) = options
    with pytest.raises((TypeError, ValueError), match=f"options.*'{name}'"):
        plan_environments(1, options, environ={}, root=tmp_path)


def test_options_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Options().base = "fork"  # type: ignore[misc]

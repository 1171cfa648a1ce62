"""Questions to Slurm by its other commands, each in a time of its own: alone they would try for a minute."""

from __future__ import annotations

import os
import shutil
import subprocess

from procession import BackendUnavailableError

_PING_TIME = 4.0  # seconds: an answer takes milliseconds
_ASK_TIME = 3.0  # seconds: what is asked can be done without


def check_controller(backend: str, srun: str) -> None:
    """Refuse to start anything where no controller answers.

    Raises:
        BackendUnavailableError: none does; the reason is Slurm's own.
    """
    ping = find_command("scontrol", srun)
    if not ping:
        return  # srun will tell, in its own time
    answer, errors = _run([ping, "ping"], _PING_TIME)
    if " UP" in answer:
        return
    said = " ".join((errors or answer).replace("*", "").split()) or "it has not answered"
    raise BackendUnavailableError(
        backend,
        reason=f"Slurm's controller cannot be reached: {said}",
        hint="set SLURM_CONF, or use a host of the cluster; `scontrol ping` must say that it is UP",
    )


def ask(name: str, srun: str, *arguments: str) -> list[str]:
    """Return the lines that one of Slurm's commands answers; none if it does not answer soon."""
    command = find_command(name, srun)
    return _run([command, *arguments], _ASK_TIME)[0].splitlines() if command else []


def find_command(name: str, srun: str) -> str:
    """Return the path of one of Slurm's commands: beside srun, else on PATH; empty if there is none."""
    return shutil.which(name, path=os.path.dirname(srun)) or shutil.which(name) or ""


def _run(command: list[str], patience: float) -> tuple[str, str]:
    """Return what a command prints, and what it says in errors, if it ends in time."""
    # the user's own filters and formats would change the answer
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

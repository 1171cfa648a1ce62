"""A Slurm for the tests: a controller and one or two nodes, all on this machine.

It needs root, and Debian's packages slurm-wlm and munge.  It writes into one folder only, and ends the
processes that it has started by their ids.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CPUS = 16
"""The processors that the first node claims to have."""

FAR_CPUS = 2
"""The processors that the second node claims to have; it is in another network namespace."""

_PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "salloc", "squeue", "scancel")
_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
_PATIENCE = 30.0  # seconds for a daemon to start

_CONF = """
ClusterName=procession
SlurmctldHost={host}({address})
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
NodeName=here NodeHostname={host} NodeAddr={address} CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=here Default=YES State=UP
"""

_CONF_OF_TWO = """
NodeName=there NodeHostname={host} NodeAddr={far_address} CPUs={far_cpus} State=UNKNOWN
PartitionName=both Nodes=here,there State=UP
"""


@dataclass
class Cluster:
    """A running Slurm; ``far`` is the process whose network namespace the second node uses, 0 if none."""

    folder: Path
    address: str = "127.0.0.1"
    far_address: str = ""
    far: int = 0
    link: str = ""
    why_not_two: str = ""
    _daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def conf(self) -> str:
        """The path of slurm.conf."""
        return str(self.folder / "slurm.conf")

    def ask(self, *command: str) -> list[str]:
        """Run a command of Slurm, and return the lines of its output."""
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=30)
        return done.stdout.splitlines()

    def list_jobs(self) -> list[str]:
        """Return what is queued or running: jobs, then steps."""
        jobs = self.ask("squeue", "--noheader", "--format=%i %j %T %r")
        return jobs + self.ask("squeue", "--noheader", "--steps", "--format=step %i")

    def set_link(self, state: str) -> None:
        """Plug the cable to the second node in (``up``) or out (``down``)."""
        _call("ip", "link", "set", self.link, state)

    def start(self) -> None:
        """Start all daemons, and wait until the nodes are usable."""
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self._write_conf()
        files = ("key-file=munge.key", "socket=munge.socket", "pid-file=munged.pid")
        more = ("log-file=munged.log", "seed-file=munged.seed")
        paths = [
            f"--{name}={self.folder / file}" for name, file in (f.split("=") for f in files + more)
        ]
        self._run("munged", "--foreground", "--force", *paths)
        self._await((self.folder / "munge.socket").exists, "munged.log")
        self._run("slurmctld", "-D", "-i", "-f", self.conf)
        self._run("slurmd", "-D", "-N", "here", "-f", self.conf)
        if self.far:
            self._run(*_inside(self.far), "slurmd", "-D", "-N", "there", "-f", self.conf)
        self._await(self._is_idle, "slurmctld.log", "slurmd-here.log", "slurmd-there.log")

    def stop(self) -> None:
        """End the daemons in the reverse order."""
        with suppress(OSError, subprocess.SubprocessError):
            self.ask("scancel", "--full", "--user", "root")
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for pid in self._list_step_daemons():  # of a test that has failed
            os.kill(pid, signal.SIGKILL)

    def _list_step_daemons(self) -> list[int]:
        """Return the step daemons whose log is in the folder; they are no children of this process."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (folder / "cmdline").read_text().startswith("slurmstepd"):
                    files = [os.readlink(fd) for fd in (folder / "fd").iterdir()]
                    if any(file.startswith(f"{self.folder}/") for file in files):
                        found.append(int(folder.name))
        return found

    def _write_conf(self) -> None:
        host = socket.gethostname().partition(".")[0]
        first, second = _find_port(self.address), _find_port(self.address)
        text = _CONF + (_CONF_OF_TWO if self.far else "")
        filled = text.format(
            host=host,
            folder=self.folder,
            address=self.address,
            far_address=self.far_address,
            controller_port=first,
            node_port=second,
            cpus=CPUS,
            far_cpus=FAR_CPUS,
        )
        (self.folder / "slurm.conf").write_text(filled)

    def _run(self, *command: str) -> None:
        env = {**os.environ, "PATH": _PATH}
        quiet = subprocess.DEVNULL
        self._daemons.append(
            subprocess.Popen(command, env=env, stdin=quiet, stdout=quiet, stderr=quiet)
        )

    def _is_idle(self) -> bool:
        states = subprocess.run(
            ("sinfo", "--noheader", "--Node", "--format=%N %T"), capture_output=True, text=True
        ).stdout.split("\n")
        return {*filter(None, states)} == {"here idle", *(["there idle"] if self.far else [])}

    def _await(self, condition: Callable[[], bool], *logs: str) -> None:
        until = time.monotonic() + _PATIENCE
        while not condition():
            ended = [daemon.args for daemon in self._daemons if daemon.poll() is not None]
            if ended or time.monotonic() > until:
                files = [self.folder / log for log in logs if (self.folder / log).exists()]
                said = "\n".join(file.read_text()[-2000:] for file in files)
                raise RuntimeError(f"Slurm does not come up (ended: {ended}):\n{said}")
            time.sleep(0.02)


@contextmanager
def cluster_of(environment: Mapping[str, str]) -> Iterator[Cluster]:
    """Provide a Slurm that the commands of this process use."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        folder.chmod(0o755)
        cluster = Cluster(folder)
        try:
            stack.enter_context(_second_host(cluster))
        except (OSError, subprocess.SubprocessError) as error:
            cluster.why_not_two = f"no second host can be had here: {error}"
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in [name for name in environment if name.startswith("SLURM")]:
            patch.delenv(name)
        patch.setenv("SLURM_CONF", cluster.conf)
        stack.callback(cluster.stop)
        cluster.start()
        yield cluster


def need_slurm() -> None:
    """Skip, or fail where skips are forbidden, if no Slurm can be started here."""
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    reason = f"there is no {', '.join(missing)}: apt-get install slurm-wlm munge" if missing else ""
    if not reason and os.geteuid() != 0:
        reason = "only root can start a Slurm of its own"
    if reason and os.environ.get("PROCESSION_FORBID_SKIPS", "") not in ("", "0"):
        pytest.fail(f"PROCESSION_FORBID_SKIPS is set, and this would skip: {reason}")
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A Slurm for the tests of one module."""
    need_slurm()
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # a shell's ``&`` does that: callers inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with cluster_of(dict(os.environ)) as cluster:
        yield cluster


@contextmanager
def _second_host(cluster: Cluster) -> Iterator[None]:
    """Add a second host to a cluster: a network namespace, and a cable to it.

    Raises:
        OSError, subprocess.SubprocessError: this machine does not allow it.
    """
    holder = subprocess.Popen(("unshare", "--net", "sleep", "infinity"), stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 5
        while _net_of(holder.pid) in ("", _net_of(os.getpid())):
            if holder.poll() is not None or time.monotonic() > until:
                raise OSError("unshare makes no network namespace")
            time.sleep(0.01)
        link, net = f"slurm{holder.pid}", f"10.{200 + holder.pid // 250 % 50}.{holder.pid % 250}"
        peer = ("peer", link, "netns", str(holder.pid))
        _call("ip", "link", "add", link, "type", "veth", *peer)
        _call("ip", "address", "add", f"{net}.1/24", "dev", link)
        _call("ip", "link", "set", link, "up")
        for command in (
            f"address add {net}.2/24 dev {link}",
            f"link set {link} up",
            "link set lo up",
        ):
            _call(*_inside(holder.pid), "ip", *command.split())
        cluster.far, cluster.link = holder.pid, link
        cluster.address, cluster.far_address = f"{net}.1", f"{net}.2"
        yield
    finally:
        holder.kill()  # the namespace ends with it, and so does the cable
        holder.wait()


def _net_of(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:  # it has ended
        return ""


def _inside(pid: int) -> tuple[str, ...]:
    # `ip netns exec` mounts another /sys, in which slurmd finds no cgroups
    return ("nsenter", f"--net=/proc/{pid}/ns/net")


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PATH": _PATH})


def _find_port(address: str) -> int:
    with socket.create_server((address, 0)) as server:
        port: int = server.getsockname()[1]
    return port

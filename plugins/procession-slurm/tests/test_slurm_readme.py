"""The example in README.md works as shown, on a real Slurm."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from procession.testing.subject import wait_until
from slurm_cluster import Cluster, cluster

__all__ = ["cluster"]

README = Path(__file__).parents[1] / "README.md"
FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"```console\n\$ sbatch --wait (\S+)\n\$ cat (\S+)\n(.*?)```", re.DOTALL)


def test_the_job_of_the_readme_prints_its_output(cluster: Cluster, tmp_path: Path) -> None:
    text = README.read_text()
    for name, content in FILE.findall(text):
        (tmp_path / name).write_text(content)
    [(job, output, printed)] = COMMANDS.findall(text)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    cluster.ask("env", f"--chdir={tmp_path}", f"PATH={path}", "sbatch", job)
    wait_until(lambda: not cluster.list_jobs(), "the job does not end", 60)
    assert (tmp_path / output).read_text() == printed

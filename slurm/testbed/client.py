"""SLURM's own commands, pointed at one testbed."""

import os
import subprocess

from slurm.testbed.configuration import slurm_conf_file
from slurm.testbed.packages import Packages
from slurm.testbed.plan import Plan

# Set by a cluster for its jobs, or by a site for its users: they would send our commands elsewhere.
FOREIGN_PREFIXES = ("SLURM", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SALLOC_", "SINFO_", "MUNGE_")


class Client:
    """Runs sinfo, scontrol and the like against the testbed of ``plan``."""

    def __init__(self, plan: Plan, packages: Packages) -> None:
        self.plan = plan
        self.packages = packages

    def variables(self) -> dict[str, str]:
        """What a shell must set for SLURM's commands to reach this testbed, as whole values."""
        return {"SLURM_CONF": str(slurm_conf_file(self.plan)), **self.packages.environment()}

    def environment(self) -> dict[str, str]:
        """This process's environment without another cluster's traces, and with this testbed's variables."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_PREFIXES)}
        return kept | self.variables()

    def run(self, program: str, *arguments: str, seconds: float = 60) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end; a timeout reads as exit status 124."""
        command = [str(self.packages.binary(program)), *arguments]
        try:
            return subprocess.run(
                command,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", f"{program} gave no answer in {seconds:g} s")

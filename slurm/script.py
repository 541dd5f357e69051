"""The batch script of a job: what SLURM is asked for, and what its shell does before, during and after the step."""

import shlex
import sys
from pathlib import Path
from typing import Any

from submitit.slurm import slurm as submitit_slurm

from slurm.cluster import Cluster, refuse_backslashes, refuse_control_characters
from slurm.errors import RequestError
from slurm.scratch import SCRATCH


class BatchScript:
    """What runs a pickled call on a cluster's nodes.

    Args:
        cluster: where and how much.
        name: the job's name in the queue.
        logs: folder of submitit's files.
        code: folder put before everything else on the job's import path.
        lead_s: how long before the time limit the job is warned, in seconds.
        tries: unasked ends that the job may have in all; None where its own work counts its starts.

    Raises:
        RequestError: a name that would not stay a mere word in the script.
    """

    def __init__(self, cluster: Cluster, name: str, logs: Path, code: Path, lead_s: int, tries: int | None) -> None:
        for where, value in (("job name", name), ("log folder", str(logs)), ("code folder", str(code))):
            refuse_control_characters(where, value)
        refuse_backslashes("job name", name)
        refuse_backslashes("log folder", str(logs))
        if ":" in str(code):
            raise RequestError(
                f"code folder {code} has a : in it, which import paths are split at", "choose another runs="
            )
        if "%" in str(logs):
            raise RequestError(f"log folder {logs} has a % in it, which SLURM would expand", "choose another run name")
        self._cluster, self._name, self._logs, self._code = cluster, name, logs, code
        self._lead_s, self._tries = lead_s, tries

    def text(self, members: int | None) -> str:
        """The script of one job, or of an array with so many members."""
        return submitit_slurm._make_sbatch_string(
            command=self.command, folder=self._logs, map_count=members, **self._parameters()
        )

    @property
    def command(self) -> str:
        """The command line of every process."""
        return f"{self.python} -u -m slurm.guard {shlex.quote(str(self._logs))}"

    @property
    def python(self) -> str:
        """Start of a task's command line.

        Warning signals are held back until the job's own handlers stand: the default action would end a process that
        is still importing, and an ignored signal would be lost. An ``env`` too old for that (coreutils before 8.31)
        leaves the default action: such a job starts again. ``-P`` keeps the working directory off the import path, so
        that the snapshot runs and not the checkout it was taken from. Thread counts are read when numpy is imported,
        which submitit does first; a process with more threads than cores spends its time waiting for them.
        """
        held = "--block-signal=USR2,TERM"
        shell = ["sh", "-c", f'env {held} true 2>/dev/null && exec env {held} "$@"; exec env "$@"', "sh"]
        cluster = self._cluster
        container = shlex.split(cluster.container or "")
        return shlex.join([*shell, *self._environment(), *container, self._python, "-P"])

    @property
    def _python(self) -> str:
        return self._cluster.python or sys.executable

    def _environment(self) -> list[str]:
        cluster = self._cluster
        variables = {"PYTHONPATH": str(self._code)}
        variables |= {f"{name}_NUM_THREADS": str(cluster.cpus) for name in ("OMP", "MKL", "OPENBLAS")}
        if cluster.network_interface:
            variables |= {f"{name}_SOCKET_IFNAME": cluster.network_interface for name in ("NCCL", "GLOO")}
        if cluster.scratch:
            variables[SCRATCH] = cluster.scratch
        variables |= {name: "" if value is None else _word(value) for name, value in cluster.environment.items()}
        return [f"{name}={value}" for name, value in variables.items()]

    @property
    def _aftermath(self) -> list[str]:
        """Lines before the step: however the script ends, the job's aftermath decides whether it comes back.

        SIGTERM ends the shell at once, srun or not, and runs the trap; it may come more than once.
        """
        tries = [] if self._tries is None else [str(self._tries)]
        # outside of a container, in which there is no scontrol
        python = sys.executable if self._cluster.container else self._python
        program = [python, "-P", "-m", "slurm.aftermath", str(self._logs), *tries]
        return [
            "aftermath() {",
            '  trap "" TERM USR2',
            f'  [ "$ended" = 0 ] || {shlex.join(["env", f"PYTHONPATH={self._code}", *program])}',
            '  exit "$ended"',
            "}",
            "ended=143",
            "trap aftermath EXIT",
            # SLURM 22.05 and later do not hand --cpus-per-task on to srun.
            f"export SRUN_CPUS_PER_TASK={self._cluster.cpus}",
        ]

    def _parameters(self) -> dict[str, Any]:
        cluster = self._cluster
        further = {name: value for name, value in cluster.extra.items() if value is not None and value is not False}
        options: dict[str, str | None] = {**cluster.gpus, **cluster.memory, **cluster.place}
        options |= {"comment": cluster.comment, "mail-user": cluster.mail_user, "mail-type": cluster.mail_type}
        return {
            "job_name": self._name,
            "time": cluster.time_min,
            "nodes": cluster.nodes,
            "ntasks_per_node": cluster.tasks,
            "cpus_per_task": cluster.cpus,
            "signal_delay_s": self._lead_s,
            "exclusive": cluster.exclusive or None,
            "wckey": None,
            "stderr_to_stdout": True,
            "array_parallelism": cluster.workers,
            "additional_parameters": {
                "requeue": True,
                **{name: value for name, value in options.items() if value is not None},
                **further,
            },
            "setup": [*self._aftermath, *self._modules, *cluster.setup],
            "teardown": ["ended=$?", ""],
            "srun_args": ["--kill-on-bad-exit=1", *cluster.srun_args],
        }

    @property
    def _modules(self) -> list[str]:
        """Lines that load the modules; sites whose batch shells do not know ``module`` define it for login shells."""
        if not self._cluster.modules:
            return []
        load = shlex.join(["module", "load", *self._cluster.modules])
        told = shlex.quote(f"mvdiff: not started: {load} failed")
        return [
            "type module >/dev/null 2>&1 || . /etc/profile",
            f"{load} || {{ echo {told} >&2; ended=1; exit; }}",
        ]


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

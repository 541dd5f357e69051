"""The batch script of a job: what SLURM is asked for, and what its shell does before, during and after the step."""

import shlex
import sys
from pathlib import Path
from typing import Any

from submitit.slurm import slurm as submitit_slurm

from slurm.cluster import Cluster, refuse_control_characters
from slurm.errors import RequestError


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
        threads = [f"{name}_NUM_THREADS={self._cluster.cpus_per_task}" for name in ("OMP", "MKL", "OPENBLAS")]
        return shlex.join([*shell, f"PYTHONPATH={self._code}", *threads, sys.executable, "-P"])

    @property
    def _aftermath(self) -> list[str]:
        """Lines before the step: however the script ends, the job's aftermath decides whether it comes back.

        SIGTERM ends the shell at once, srun or not, and runs the trap; it may come more than once.
        """
        tries = [] if self._tries is None else [str(self._tries)]
        program = [sys.executable, "-P", "-m", "slurm.aftermath", str(self._logs), *tries]
        return [
            "aftermath() {",
            '  trap "" TERM USR2',
            f'  [ "$ended" = 0 ] || {shlex.join(["env", f"PYTHONPATH={self._code}", *program])}',
            '  exit "$ended"',
            "}",
            "ended=143",
            "trap aftermath EXIT",
        ]

    def _parameters(self) -> dict[str, Any]:
        cluster = self._cluster
        parameters: dict[str, Any] = {
            "job_name": self._name,
            "time": cluster.time_min,
            "nodes": cluster.nodes,
            "ntasks_per_node": cluster.tasks,
            "cpus_per_task": cluster.cpus_per_task,
            "signal_delay_s": self._lead_s,
            "partition": cluster.partition,
            "account": cluster.account,
            "qos": cluster.qos,
            "constraint": cluster.constraint,
            "exclude": cluster.exclude,
            "gpus_per_node": cluster.gpus_per_node or None,
            "mem": None if cluster.memory_gb is None else submitit_slurm._convert_mem(cluster.memory_gb),
            "wckey": None,
            "stderr_to_stdout": True,
            "array_parallelism": cluster.workers,
            "additional_parameters": {"requeue": True},
            # SLURM 22.05 and later do not hand --cpus-per-task on to srun.
            "setup": [*cluster.setup, f"export SRUN_CPUS_PER_TASK={cluster.cpus_per_task}", *self._aftermath],
            "teardown": ["ended=$?", ""],
            "srun_args": ["--kill-on-bad-exit=1"],
        }
        return parameters

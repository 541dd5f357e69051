"""Handing a job to submitit: the batch script, the array, the ids that come back."""

import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.local.local import LocalJob
from submitit.slurm import slurm as submitit_slurm

from slurm.cluster import Cluster, refuse_control_characters
from slurm.errors import RequestError
from slurm.local import LocalExecutor
from slurm.queue import ENDED, job_states, partitions, run
from slurm.requeue import TRIES
from slurm.words import GAVE_UP

TIMEOUTS_ALLOWED = 10_000
"""submitit ends a job after so many time limits; how often a job may come back is decided elsewhere."""


@dataclass(frozen=True)
class Submission:
    """What was handed to the queue, as the run folder remembers it."""

    kind: str
    name: str
    job_ids: list[str]
    logs: str
    """Folder of the logs: ``JOB_RANK_log.out``."""

    @property
    def shown(self) -> str:
        """The job ids for people: an array of many as ``123_[0-63]``."""
        roots = {id_.partition("_")[0] for id_ in self.job_ids}
        if len(roots) == 1 and len(self.job_ids) > 1:
            return f"{roots.pop()}_[0-{len(self.job_ids) - 1}]"
        return ", ".join(self.job_ids)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def log(self, job_id: str, rank: int = 0) -> Path:
        """Log file of one rank of one job."""
        return Path(self.logs) / f"{job_id}_{rank}_log.out"


@dataclass(frozen=True)
class State:
    """Where a job stands."""

    word: str
    """The queue's own word; RUNNING, COMPLETED or FAILED for a local job."""

    @property
    def ended(self) -> bool:
        """Whether the job will not run again by itself."""
        return self.word in ENDED


def states(submission: Submission) -> dict[str, State]:
    """State of every job of a submission, by job id."""
    if submission.kind == "slurm":
        return {id_: State(word) for id_, word in job_states(submission.job_ids).items()}
    return {id_: State(_local_state(id_, Path(submission.logs))) for id_ in submission.job_ids}


def _local_state(pid: str, logs: Path) -> str:
    if _controller_runs(pid):
        return "RUNNING"
    return "FAILED" if any(logs.glob(f"{GAVE_UP}-{pid}-*")) else "COMPLETED"


def _controller_runs(pid: str) -> bool:
    """A local job's id is the process id of its controller, which the kernel may have given away since."""
    try:
        process = Path(f"/proc/{pid}")
        zombie = (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        return not zombie and b"slurm.local" in (process / "cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False


class Submitter:
    """Turns calls into jobs on one cluster.

    Args:
        cluster: where and how much.
        name: the job's name in the queue.
        logs: existing folder for submitit's files; writable by its owner alone, since what lies there is executed.
        code: folder put before everything else on the jobs' import path.
        lead_s: how long before the time limit the jobs are warned, in seconds.
        tries: unasked ends that a job may have in all; None where its own work counts its starts.
    """

    def __init__(
        self, cluster: Cluster, name: str, logs: Path, code: Path, lead_s: int, tries: int | None = TRIES
    ) -> None:
        for where, value in (("job name", name), ("log folder", str(logs)), ("code folder", str(code))):
            refuse_control_characters(where, value)
        if ":" in str(code):
            raise RequestError(
                f"code folder {code} has a : in it, which import paths are split at", "choose another runs="
            )
        if "%" in str(logs):
            raise RequestError(f"log folder {logs} has a % in it, which SLURM would expand", "choose another run name")
        self.cluster, self.name, self.logs, self.code = cluster, name, logs, code
        self.lead_s, self.tries = lead_s, tries

    def script(self, workers: int | None) -> str:
        """The batch script that ``submit`` would hand to sbatch, or the command of a local job."""
        command = f"{self._python} -u -m submitit.core._submit {shlex.quote(str(self.logs))}"
        if self.cluster.kind != "slurm":
            return f"{command}\n"
        return submitit_slurm._make_sbatch_string(
            command=command, folder=self.logs, map_count=workers, **self._slurm_parameters()
        )

    def check(self, workers: int | None) -> None:
        """Ask SLURM whether it would take the job, without queueing it.

        Raises:
            RequestError: what SLURM refuses, and how to mend it.
        """
        if self.cluster.kind != "slurm":
            return
        if shutil.which("sbatch") is None:
            raise RequestError(
                "sbatch is not on this machine's PATH", "run on a login node of the cluster, or use cluster=local"
            )
        known = partitions()
        for name in (self.cluster.partition or "").split(","):
            if name and name not in known:
                raise RequestError(
                    f"partition {name!r} does not exist on this cluster",
                    f"choose cluster.partition from {', '.join(known)}",
                )
        with tempfile.NamedTemporaryFile("w", suffix=".sh") as probe:
            probe.write(self.script(workers))
            probe.flush()
            try:
                run("sbatch", "--test-only", probe.name)
            except RequestError as error:
                cluster = self.cluster
                reason = error.what.rpartition("failed: ")[2].replace("allocation failure: ", "")
                raise RequestError(
                    f"SLURM would not take this job ({reason}), which asks for {cluster.nodes} nodes, each with "
                    f"{cluster.tasks} tasks of {cluster.cpus_per_task} CPUs and {cluster.gpus_per_node} GPUs",
                    "change cluster.nodes, .gpus_per_node, .cpus_per_task, .memory_gb, .time_min, or another it names",
                ) from None

    def submit(self, call: Callable[..., Any], workers: int | None) -> Submission:
        """Queue ``call()`` once, or ``call(i)`` for i in 0..workers-1 as one array (local: as so many jobs)."""
        executor = self._executor()
        jobs: Sequence[submitit.Job[Any]]
        jobs = [executor.submit(call)] if workers is None else executor.map_array(call, list(range(workers)))
        for job in jobs:
            if isinstance(job, LocalJob):
                job._cancel_at_deletion = False
        return Submission(self.cluster.kind, self.name, [job.job_id for job in jobs], str(self.logs))

    @property
    def _python(self) -> str:
        """Start of a task's command line.

        Warning signals are held back until the job's own handlers stand: the default action would end a process that
        is still importing, and an ignored signal would be lost. An ``env`` too old for that (coreutils before 8.31)
        leaves the default action: such a job starts again. ``-P`` keeps the working directory off the import path, so
        that the snapshot runs and not the checkout it was taken from. Thread counts are read when numpy is imported,
        which submitit does first; a process with more threads than cores spends its time waiting for them.
        """
        held = "--block-signal=USR2,TERM"
        shell = ["sh", "-c", f'env {held} true 2>/dev/null && exec env {held} "$@"; exec env "$@"', "sh"]
        threads = [f"{name}_NUM_THREADS={self.cluster.cpus_per_task}" for name in ("OMP", "MKL", "OPENBLAS")]
        return shlex.join([*shell, f"PYTHONPATH={self.code}", *threads, sys.executable, "-P"])

    @property
    def _aftermath(self) -> list[str]:
        """Lines before the step: however the script ends, the job's aftermath decides whether it comes back.

        SIGTERM ends the shell at once, srun or not, and runs the trap; it may come more than once.
        """
        tries = [] if self.tries is None else [str(self.tries)]
        program = [sys.executable, "-P", "-m", "slurm.aftermath", str(self.logs), *tries]
        return [
            "aftermath() {",
            '  trap "" TERM USR2',
            f'  [ "$ended" = 0 ] || {shlex.join(["env", f"PYTHONPATH={self.code}", *program])}',
            '  exit "$ended"',
            "}",
            "ended=143",
            "trap aftermath EXIT",
        ]

    def _executor(self) -> submitit.Executor:
        if self.cluster.kind == "local":
            local = LocalExecutor(self.logs, self._python, self.code, self.tries)
            local.update_parameters(
                timeout_min=self.cluster.time_min,
                tasks_per_node=self.cluster.tasks,
                gpus_per_node=self.cluster.gpus_per_node,
                signal_delay_s=self.lead_s,
            )
            return local
        executor = submitit.SlurmExecutor(self.logs, max_num_timeout=TIMEOUTS_ALLOWED, python=self._python)
        executor.update_parameters(**self._slurm_parameters())
        return executor

    def _slurm_parameters(self) -> dict[str, Any]:
        cluster = self.cluster
        parameters: dict[str, Any] = {
            "job_name": self.name,
            "time": cluster.time_min,
            "nodes": cluster.nodes,
            "ntasks_per_node": cluster.tasks,
            "cpus_per_task": cluster.cpus_per_task,
            "signal_delay_s": self.lead_s,
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

"""What was handed to the queue, and where it stands."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slurm.queue import ENDED, job_states
from slurm.words import CANCELLED, GAVE_UP, Words


@dataclass(frozen=True)
class Submission:
    """What was handed to the queue, as the run folder remembers it."""

    kind: str
    name: str
    job_ids: list[str]
    logs: str
    """Folder of the logs: ``JOB_RANK_log.out``."""
    workers: list[int] | None = None
    """Which worker each job is; None where they are 0, 1, ... in the order of their ids."""

    def worker(self, job_id: str) -> int:
        """Which worker that job is."""
        index = self.job_ids.index(job_id)
        return index if self.workers is None else self.workers[index]

    @property
    def shown(self) -> str:
        """The job ids for people: arrays as ``123_[0-999], 124_[0-23]``."""
        arrays: dict[str, list[str]] = {}
        for id_ in self.job_ids:
            arrays.setdefault(id_.partition("_")[0], []).append(id_)
        ends = (f"{root}_[0-{len(ids) - 1}]" if len(ids) > 1 else ids[0] for root, ids in arrays.items())
        return ", ".join(ends)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def log(self, job_id: str, rank: int = 0) -> Path:
        """Log file of one rank of one job."""
        return Path(self.logs) / f"{job_id}_{rank}_log.out"


@dataclass(frozen=True)
class State:
    """Where a job stands."""

    word: str
    """The queue's own word; RUNNING, COMPLETED, CANCELLED or FAILED for a local job."""

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
    if controller_runs(pid, logs):
        return "RUNNING"
    if Words(logs, pid, 0).said(CANCELLED):
        return "CANCELLED"
    return "FAILED" if any(logs.glob(f"{GAVE_UP}-{pid}-*")) else "COMPLETED"


def controller_runs(pid: str, logs: Path) -> bool:
    """Whether the local job of that id, whose logs lie in ``logs``, has not ended: the id is that of its controller's
    process, which the kernel may have given away since."""
    try:
        process = Path(f"/proc/{pid}")
        zombie = (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        line = (process / "cmdline").read_bytes()
        words = line.split(b"\0")
        # A process has no command line for a moment between its start and that of its program.
        return not zombie and (not line or (b"slurm.local" in words and os.fsencode(logs) in words))
    except (FileNotFoundError, ProcessLookupError):
        return False

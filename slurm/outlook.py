"""One look at the queue for any number of submissions: a controller must not be asked once a job."""

import math
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slurm.command import TIMEOUT_S, run
from slurm.queue import ENDED, accounted, moment
from slurm.submission import Submission, states

_FIELDS = "%i|%A|%T|%V|%S|%e|%r"
"""Id, id of the member, state, when it was submitted, started and must end, and why it waits; any | is in the last."""

QUICK_S = 5.0
"""How long the queue is waited for where whoever asks can do without its answer."""


@dataclass(frozen=True)
class Standing:
    """Where one job stands. Times are in seconds since 1970, infinite where the queue names none."""

    word: str
    """The queue's own word; RUNNING, COMPLETED, CANCELLED or FAILED for a local job."""
    reason: str = ""
    """Why it waits, in the queue's word for it."""
    submitted: float = math.inf
    started: float = math.inf
    """When it started; of a waiting job, when the queue expects it to."""
    ends: float = math.inf
    """When its time limit ends it."""

    @property
    def ended(self) -> bool:
        """Whether the job will not run again by itself."""
        return self.word in ENDED

    @property
    def waits(self) -> bool:
        return self.word in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING")


def look(submissions: Iterable[Submission], timeout_s: float = TIMEOUT_S) -> dict[str, Standing]:
    """What is known of the submissions' jobs by job id, local ones included; of those that the queue has forgotten,
    nothing.

    Raises:
        RequestError: the queue does not answer, and there are jobs that it would know.
    """
    found: dict[str, Standing] = {}
    owners = set()
    wanted = set()
    for submission in submissions:
        if submission.kind == "slurm":
            wanted.update(submission.job_ids)
            with suppress(OSError):
                owners.add(Path(submission.logs).stat().st_uid)
        else:
            found |= {id_: Standing(state.word) for id_, state in states(submission).items()}
    if wanted:
        users = ",".join(map(str, sorted(owners or {os.getuid()})))
        output = run("squeue", "--noheader", "--array", "--states=all", f"--user={users}", f"--format={_FIELDS}",
                     timeout_s=timeout_s)  # fmt: skip
        for line in output.splitlines():
            id_, raw, word, submitted, started, ends, reason = line.strip().split("|", 6)
            for name in {id_, raw} & wanted:
                found[name] = Standing(word, reason, moment(submitted), moment(started), moment(ends))
    return found


def recall(job_ids: Iterable[str]) -> dict[str, Standing]:
    """What the accounting tells of jobs that the queue has forgotten; nothing on a cluster without."""
    wanted = sorted(set(job_ids))
    if not wanted or shutil.which("sacct") is None:
        return {}
    known = accounted(wanted, QUICK_S)
    return {id_: Standing(known[id_]) for id_ in wanted if known.get(id_) in ENDED}

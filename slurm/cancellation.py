"""Ending jobs because their owner says so, in a queue or on this machine."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from slurm.errors import Unanswered
from slurm.patience import persevere
from slurm.sbatch import cancel
from slurm.submission import Submission, controller_runs
from slurm.words import CANCELLED, Words

KILL_WAIT_S = 30.0
"""From the request to the kill of a local job, as long as SLURM's own KillWait."""
_POLL_S = 0.05


def cancel_jobs(submission: Submission, job_ids: Sequence[str], tell: Callable[[str], None]) -> None:
    """End the jobs ``job_ids`` of the submission, which have not ended yet. They do not come back.

    Args:
        tell: as for ``persevere``.

    Raises:
        RequestError: the queue does not do it; ``Unanswered``: it may still, and the jobs' folder says so.
    """
    logs = Path(submission.logs)
    if submission.kind == "slurm":
        names = _short(submission, job_ids)
        try:
            persevere(lambda: cancel(names), tell)
        except Unanswered as error:
            _say(logs, names)
            raise Unanswered(
                f"{error.what}; what was asked may still be done", "see with mvdiff status, and cancel once more"
            ) from error
        _say(logs, names)
        return
    for id_ in job_ids:
        Words(logs, id_, 0).say(CANCELLED)
        _signal(id_, logs, signal.SIGTERM, group=False)
    deadline = time.monotonic() + KILL_WAIT_S
    while any(controller_runs(id_, logs) for id_ in job_ids) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    for id_ in job_ids:
        _signal(id_, logs, signal.SIGKILL, group=True)


def _say(logs: Path, names: Sequence[str]) -> None:
    for name in names:
        Words(logs, name, 0).say(CANCELLED)


def _short(submission: Submission, job_ids: Sequence[str]) -> list[str]:
    """``job_ids`` with whole arrays by the one id that they share: a command line holds only so many."""
    members: dict[str, set[str]] = {}
    for id_ in submission.job_ids:
        members.setdefault(id_.partition("_")[0], set()).add(id_)
    asked = set(job_ids)
    whole = {root for root, ids in members.items() if ids <= asked}
    return sorted({root if (root := id_.partition("_")[0]) in whole else id_ for id_ in asked})


def _signal(pid: str, logs: Path, number: signal.Signals, group: bool) -> None:
    """Tell the controller, which passes a request on to its processes, or them all: they share a group of their own."""
    with suppress(ProcessLookupError):
        if controller_runs(pid, logs):
            (os.killpg if group else os.kill)(int(pid), number)

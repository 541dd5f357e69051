"""Bring a job back: who asks the queue, when it may, and what it does while the queue does not answer."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from slurm.queue import job_fields
from slurm.words import BEGAN, GAVE_UP, REQUEUE_ASKED, STOPPED, UNASKED, Words

if TYPE_CHECKING:  # the aftermath of a job starts in the middle of its end, without submitit
    from slurm.place import Place

COMES_BACK = 144
"""Exit status of a local job's process that wants the job started again."""
WAIT_FOR_END_S = 120
"""How long a rank that is done waits for rank 0's word before it ends the step."""
PATIENCE_S = 600
"""How long a queue that does not answer is asked again; a job whose queue is away is not ended by it either."""
TRIES = 3
"""Starts that may end unasked: in a row where the job's own code never ran, in all where nothing else counts them."""
_REFUSALS = 3
_ACTIVE = ("RUNNING", "SUSPENDED", "STOPPED")
_MISHAPS = ("TimeLimit", "JobLaunchFailure", "NonZeroExitCode", "RaisedSignal", "NodeDown", "SystemFailure", "OutOfMem")
"""SLURM's reasons for the end of a job that nobody wanted; a cancelled one has none of them."""


def come_back(place: "Place", folder: Path, signal: str | None, wait: bool = True) -> NoReturn:
    """End this process so that the job starts again; a job that its owner cancelled stays cancelled.

    All ranks call this after their state is safe on disk. On SLURM rank 0 requeues the job and leaves, which ends the
    step, so the others wait for its word in ``folder`` unless there is nothing to lose (``wait=False``). They must not
    wait for SIGTERM: the one that says "stop soon" may still be on its way. What rank 0 could not ask for, the batch
    script asks for after the step (``slurm/aftermath.py``).

    Args:
        signal: name of the one that asked the job to stop; None where it stops by itself.
    """
    if place.kind == "local":
        sys.exit(COMES_BACK)
    if place.kind == "slurm":
        words = Words(folder, place.job_id, place.restart)
        if place.first:
            if not words.said(GAVE_UP) and not (
                signal == "SIGTERM" and place.world_size > 1 and _another_died(place.job_id)
            ):
                words.say(STOPPED)
                if not words.said(REQUEUE_ASKED):
                    ask(words)
                words.say(REQUEUE_ASKED)
        elif wait:
            deadline = time.monotonic() + WAIT_FOR_END_S
            while not words.said(REQUEUE_ASKED) and time.monotonic() < deadline:
                time.sleep(0.05)
    sys.exit(1)


def _another_died(job_id: str) -> bool:
    """Whether SIGTERM came because a rank ended badly, and srun ends the others: nothing else sends it to a job that
    runs on and is not being preempted."""
    shown = job_fields(job_id)
    return shown.get("JobState") == "RUNNING" and shown.get("PreemptTime", "None") == "None"


def give_up(place: "Place", folder: Path, why: str) -> NoReturn:
    """End this process with status 1 so that the job does not start again: it would end the same way."""
    Words(folder, place.job_id, place.restart).say(GAVE_UP, why)
    sys.exit(1)


def unasked(words: Words, tries: int | None) -> bool:
    """Note that this start ended unasked, and say whether there may be another one.

    Args:
        words: of the start that ended.
        tries: unasked ends that a job may have in all; None where its own work counts them. Whatever it is, a start
            that never came to the job's own code cannot count anything, so ``TRIES`` of these in a row are the last.
    """
    words.say(UNASKED)
    ends = words.starts_that_said(UNASKED)
    if tries is not None and len(ends) >= tries:
        return _never_again(words, f"job {words.job_id} ended unasked {len(ends)} times: it does not come back")
    recent = range(words.restart, words.restart - TRIES, -1)
    if all(start in ends and not words.said(BEGAN, start) for start in recent):
        return _never_again(
            words, f"job {words.job_id} ended {TRIES} times before its work began: it does not come back"
        )
    return True


def _never_again(words: Words, why: str) -> bool:
    # the queue forgets how a job has ended
    words.say(GAVE_UP, why)
    print(why, flush=True)
    return False


def ask(words: Words, allowed: Callable[[], bool] = lambda: True) -> bool:
    """Have SLURM start this job again, and say whether it will; it is asked again while it does not answer.

    Nothing is asked for a job that was cancelled, that goes back to the queue already, or that is not ``allowed`` to.
    """
    # Never SLURM_JOB_ID: that of an array's last member is the array's own, and brings all of its members back.
    job_id = words.job_id
    if shutil.which("scontrol") is None:
        print(f"job {job_id}: no scontrol in this container, the batch script asks", flush=True)
        return False
    deadline = time.monotonic() + PATIENCE_S
    pause, refusals = 0.5, 0
    while True:
        shown = job_fields(job_id)
        if int(shown.get("Restarts", "0")) > words.restart or shown.get("JobState") in ("PENDING", "REQUEUED"):
            return True
        if shown and not _may_come_back(shown):
            print(f"job {job_id} was ended from outside: it does not ask to come back", flush=True)
            return False
        if shown:
            if not allowed():
                return False
            answer = _requeue(job_id)
            if answer is None:
                print(f"job {job_id} goes back to the queue", flush=True)
                return True
            refusals += 1
            if refusals == _REFUSALS:
                print(f"scontrol requeue {job_id}: {answer}", file=sys.stderr, flush=True)
                return False
        if time.monotonic() > deadline:
            print(f"job {job_id} cannot come back: no answer from slurmctld", file=sys.stderr, flush=True)
            return False
        time.sleep(pause)
        pause = min(2 * pause, 10.0)


def _may_come_back(shown: dict[str, str]) -> bool:
    """A job that the controller is ending already was cancelled, unless it says what went wrong."""
    return shown.get("JobState") in _ACTIVE or shown.get("Reason", "").startswith(_MISHAPS)


def _requeue(job_id: str) -> str | None:
    """What SLURM has against it; None where it has done it."""
    try:
        result = subprocess.run(
            ["scontrol", "requeue", job_id], capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return "no answer"
    return None if result.returncode == 0 else " ".join((result.stderr or result.stdout).split())

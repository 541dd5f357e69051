"""Bring a stopped job back: the one rank that may asks the queue, the others wait to be ended."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

from slurm.place import Place
from slurm.queue import job_fields, seconds

WAIT_FOR_END_S = 120


def come_back(place: Place, folder: Path) -> NoReturn:
    """End this process so that the job starts again; a job that its owner cancelled stays cancelled.

    All ranks call this after their state is safe on disk. On SLURM rank 0 requeues the job and leaves, which ends the
    step; a rank that left before the job is back in the queue would make the job fail instead, so the others wait for
    rank 0's word in ``folder``. They must not wait for SIGTERM: the one that says "stop soon" may still be on its way.
    """
    if place.kind == "local":
        print("the job starts again", flush=True)
        sys.exit(LOCAL_REQUEUE_RETURN_CODE)
    if place.kind == "slurm":
        word = folder / f"requeue-asked-{place.job_id}-{place.restart}"
        # The raw id: for a member of an array it names that member alone.
        job_id = os.environ["SLURM_JOB_ID"]
        if place.first:
            if _may_come_back(job_id):
                _requeue(job_id)
            word.touch()
        else:
            deadline = time.monotonic() + WAIT_FOR_END_S
            while not word.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
    sys.exit(1)


def _may_come_back(job_id: str) -> bool:
    """A job that the controller is ending already was cancelled or is being requeued by SLURM itself, unless its time
    ran out: COMPLETING hides which of these it was."""
    shown = job_fields(job_id)
    ended = shown.get("JobState") in ("CANCELLED", "COMPLETING")
    if ended and seconds(shown.get("RunTime", "0")) < seconds(shown.get("TimeLimit", "UNLIMITED")):
        print(f"job {job_id} was ended from outside: it does not ask to come back", flush=True)
        return False
    return True


def _requeue(job_id: str) -> None:
    result = subprocess.run(["scontrol", "requeue", job_id], capture_output=True, text=True, timeout=60, check=False)
    if result.returncode == 0:
        print(f"job {job_id} goes back to the queue", flush=True)
        return
    # On preemption SLURM may have put the job back before this process asked.
    if job_fields(job_id).get("JobState") not in ("PENDING", "REQUEUED", "COMPLETING"):
        print(f"scontrol requeue {job_id}: {result.stderr.strip()}", file=sys.stderr, flush=True)

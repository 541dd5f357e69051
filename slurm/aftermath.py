"""What the batch script does once its step has ended badly: `python -m slurm.aftermath LOGS [TRIES]`.

It runs from the script's EXIT trap: when srun returned a status other than 0, or when the shell itself got SIGTERM,
which SLURM sends it when the time limit is reached and when the job is cancelled. It imports nothing heavy: from
SIGTERM to the kill there are KillWait seconds, 30 by default.
"""

import os
import sys
from pathlib import Path

from slurm.requeue import ask, unasked
from slurm.words import GAVE_UP, STOPPED, Words


def aftermath(logs: Path, tries: int | None) -> bool:
    """Bring the job of this batch script back, unless it gave up, was cancelled, or has had its ``tries``.

    Returns:
        whether it starts again.
    """
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job_id = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    words = Words(logs, job_id, int(os.environ.get("SLURM_RESTART_COUNT", "0")))
    if words.said(GAVE_UP):
        return False
    return ask(words, lambda: words.said(STOPPED) or unasked(words, tries))


if __name__ == "__main__":
    aftermath(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)

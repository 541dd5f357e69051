"""What a queue starts: one process of a job, from nothing but the job's folder.

State is found again on disk, never pickled, so that a job that comes back starts exactly like a new one.
"""

import os
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

from submitit.helpers import DelayedSubmission

from jobs.job import Context, job, settle, tries
from jobs.runfolder import JobFolder
from mvdiff.errors import Hopeless
from mvdiff.events import EventLog
from slurm.deadline import Deadline
from slurm.errors import RequestError
from slurm.gpu import take_own
from slurm.place import here
from slurm.requeue import come_back, give_up
from slurm.stop import StopFlag
from slurm.watchdog import Watchdog
from slurm.words import BEGAN, Words

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
"""No network in a job, and none of the libraries' own bars and remarks in its log."""


class Task:
    """The callable handed to submitit."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def checkpoint(self, worker: int = 0) -> DelayedSubmission:
        """Called by submitit's own handler if a signal comes before ours stands: start again the same way."""
        return DelayedSubmission(self, worker)

    def __call__(self, worker: int = 0) -> None:
        stop = StopFlag.install()
        place = here()
        folder = JobFolder.at(Path(self.folder))
        os.umask(folder.run.umask)
        config = folder.config()
        os.environ.update(QUIET)
        take_own(place)
        events = EventLog(folder.events / f"{place.job_id}-{place.rank}.jsonl")
        who = {"job_id": place.job_id, "rank": place.rank}
        words = Words(folder.logs, place.job_id, place.restart)
        words.say(BEGAN)
        events.write("task started", node=place.node, pid=os.getpid(), restart=place.restart, **who)
        module = job(folder.job)
        workers = config.cluster.workers if module.ARRAY else 1
        deadline = Deadline.of(place, 60 * config.cluster.time_min)

        def overdue(reason: str) -> None:
            events.write("task overdue", **who, reason=reason)
            print(f"mvdiff {folder.job}: {reason}", file=sys.stderr, flush=True)

        context = Context(folder.run, folder, place, worker, workers, stop.is_set, events, deadline.left)
        if stop.is_set():
            events.write("task stopped", **who, signal=stop.signal, seconds_since_signal=0.0)
            come_back(place, folder.logs, stop.signal, wait=False)
        try:
            with Watchdog(place, words, deadline, tries(module), overdue):
                nothing_left = settle(module, folder) if folder.unsettled else None
                # Ranks of one another must all go the same way, and only the first to settle is told.
                if nothing_left and place.world_size == 1:
                    print(nothing_left, flush=True)
                    outcome = "done"
                else:
                    outcome = module.work(folder.config(), context)
        except (Hopeless, RequestError) as error:
            # a full disk must not keep the last word back
            with suppress(OSError):
                events.write("task failed", **who, error=str(error))
                print(f"mvdiff {folder.job}: {error}", file=sys.stderr, flush=True)
            give_up(place, folder.logs, str(error))
        except Exception as error:
            events.write(
                "task failed", **who, error=f"{type(error).__name__}: {error}", traceback=traceback.format_exc()
            )
            raise
        if outcome == "stopped":
            waited = round(time.monotonic() - stop.since, 3) if stop.since is not None else None
            with suppress(OSError):
                events.write("task stopped", **who, signal=stop.signal, seconds_since_signal=waited)
            come_back(place, folder.logs, stop.signal)
        events.write("task finished", **who)

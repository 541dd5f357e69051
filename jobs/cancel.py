"""`mvdiff cancel RUN`: end what a run has queued or running."""

import json
import os
from collections.abc import Sequence
from functools import partial

from jobs.overview import look_at
from jobs.parser import helped, named_job, named_run, parser
from jobs.runfolder import JobFolder
from jobs.state import recorded_end
from jobs.watch import aside
from slurm.cancellation import cancel_jobs
from slurm.errors import RequestError

HELP = """\
mvdiff cancel: end what a run has queued or running, so that it does not come back

usage: mvdiff cancel RUN [--job NNN-JOB] [--json]

Cancels all jobs of the run that run or wait, in the queue or on this machine, and nothing else. They save first where
there is time for it, as on every stop. What is finished stays as it is; mvdiff retry goes on later. A controller that
does not answer is waited for, and that is told, unless all have ended by what their own folders say.

options
  --job NNN-JOB  only this one (or its number, or train, generate ... for the newest of these)
  --json         print one JSON object on standard output and nothing else there

exit status
  0 cancelled, or there was nothing to cancel; 2 the request was wrong, or the queue does not do it"""


def cancel(words: Sequence[str]) -> int:
    """Cancel what the words name; returns the exit status.

    Raises:
        InputError: no such run or job.
        RequestError: the queue does not do it, or does not say what there is.
    """
    if helped(words, HELP):
        return 0
    options = parser("cancel")
    options.add_argument("run")
    options.add_argument("--job")
    options.add_argument("--json", action="store_true")
    asked = options.parse_intermixed_args(words)
    run = named_run(asked.run)
    os.umask(run.umask)
    folders = [named_job(run, asked.job)] if asked.job else run.jobs()
    tell = partial(aside, "cancel")
    ended = {folder.path.name: end for folder in folders if (end := _ended(folder))}
    folders = [folder for folder in folders if folder.path.name not in ended]
    seen = look_at([run], tell, folders)
    if seen.silent:
        raise RequestError(
            f"what runs is not known, {seen.silent}", "see with sinfo whether slurmctld is up, then again"
        )
    cancelled: dict[str, dict[str, str]] = {}
    for folder in folders:
        submission = seen.submissions[folder.path]
        ids = submission.job_ids if submission else []
        alive = {
            id_: seen.standings[id_].word for id_ in ids if id_ in seen.standings and not seen.standings[id_].ended
        }
        if submission and alive:
            cancel_jobs(submission, list(alive), tell)
            cancelled[folder.path.name] = alive
    if asked.json:
        print(json.dumps({"job": "cancel", "run": run.name, "cancelled": cancelled, "ended": ended}))
        return 0
    for name, jobs in cancelled.items():
        shown = [f"{id_} ({word.lower()})" for id_, word in jobs.items()]
        more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
        print(f"cancelled {name}: job {', '.join(shown[:8])}{more}")
    if not cancelled:
        by_itself = [f"{name} {'is done' if end == 'done' else 'has ended'}" for name, end in ended.items()]
        print(f"nothing of {run.name} runs or waits{': ' if by_itself else ''}{', '.join(by_itself)}")
    return 0


def _ended(folder: JobFolder) -> str | None:
    """How a job of the queue has ended by what its own folder says for certain."""
    submission = folder.submission()
    return recorded_end(folder, submission) if submission and submission.kind == "slurm" else None

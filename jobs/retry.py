"""`mvdiff retry RUN`: the job that failed, once more, for what is missing."""

import contextlib
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs import JOBS
from jobs.job import claims_work, job
from jobs.launch import Request, Shares, launch
from jobs.overview import Look, look_at
from jobs.parser import helped, named_job, named_run, parser
from jobs.runfolder import JobFolder, Run
from mvdiff.errors import InputError

HELP = """\
mvdiff retry: do what failed of a run once more

usage: mvdiff retry RUN [key=value ...] [--job NNN-JOB] [--dry-run] [--wait] [--json]

Submits the run's job that failed, was cancelled or vanished, with the words it was given then, in the folder where they
were given, and with further ones behind them. What is there already is not made again: training goes on from its newest
checkpoint, generation does the samples that are missing, with no more workers than have something to do, and of synth
those workers start again that failed. Where several jobs failed, the first in the order of the data is taken. A run of
which nothing failed is left alone.

options
  --job NNN-JOB  this one (or its number, or train, generate ... for the newest of these)
  --dry-run      print the exact batch script (or command) and submit nothing
  --wait         stay until the job ends, showing its log
  --json         print one JSON object on standard output and nothing else there

examples
  mvdiff retry mice
  mvdiff retry mice cluster.time_min=600 cluster.memory_gb=128

exit status
  0 done or queued, or nothing had failed; 1 the job failed; 2 the request was wrong"""


def retry(words: Sequence[str]) -> int:
    """Submit again what the words name; returns the exit status.

    Raises:
        InputError: no such run or job, it is still running, or the folder it was submitted from is gone.
        RequestError: what submitting may meet.
    """
    if helped(words, HELP):
        return 0
    options = parser("retry")
    options.add_argument("run", nargs="?")
    options.add_argument("overrides", nargs="*")
    options.add_argument("--job")
    for flag in ("--dry-run", "--wait", "--json"):
        options.add_argument(flag, action="store_true")
    asked = options.parse_intermixed_args(words)
    if asked.run is None:
        raise InputError("RUN is not given", "say mvdiff retry RUN; mvdiff status shows which there are")
    run = named_run(asked.run)
    seen = look_at([run], _tell)
    folder, others = _failed(run, seen, asked.job)
    if folder is None:
        told = f"nothing of {run.name} failed"
        print(json.dumps({"job": "retry", "run": run.name, "state": "done"}) if asked.json else told)
        return 0
    provenance = recorded(folder)
    where = Path(provenance["working_directory"])
    if not where.is_dir():
        raise InputError(
            f"{folder.path.name} was submitted from {where}, which is gone",
            "give its mvdiff command once more yourself",
        )
    if others and not asked.json:
        print(f"{run.name}: {folder.path.name} first; then once more for {', '.join(others)}")
    given = [*provenance["overrides"], *asked.overrides]
    with contextlib.chdir(where):
        return launch(Request(folder.job, given, asked.dry_run, asked.wait, asked.json, _shares(folder, seen)))


def _shares(folder: JobFolder, seen: Look) -> Shares | None:
    """The workers of an array that failed, where each has a share of its own."""
    module, submission = job(folder.job), seen.submissions[folder.path]
    if not module.ARRAY or claims_work(module) or submission is None:
        return None
    words = seen.judge(folder).words
    failed = [submission.worker(id_) for id_ in submission.job_ids if words[id_] != "COMPLETED"]
    return Shares(folder.config().cluster.workers, failed)


def _failed(run: Run, seen: Look, word: str | None) -> tuple[JobFolder | None, list[str]]:
    """The job to be submitted again, and what failed besides."""
    newest = {folder.job: folder for folder in run.jobs()}
    chosen = named_job(run, word) if word else None
    for folder in [chosen] if chosen else newest.values():
        state = seen.judge(folder)
        if state.alive:
            raise InputError(
                f"{folder.path.name} is {state.state}{f', {state.why}' if state.why else ''}",
                f"wait for it, or end it first: mvdiff cancel {run.name}",
            )
    failed = [
        folder
        for folder in ([chosen] if chosen else sorted(newest.values(), key=lambda one: JOBS.index(one.job)))
        if seen.judge(folder).state != "done"
    ]
    return (failed[0] if failed else None), [folder.path.name for folder in failed[1:]]


def _tell(line: str) -> None:
    print(f"[retry] {line}", file=sys.stderr, flush=True)


def recorded(folder: JobFolder) -> dict[str, Any]:
    """The provenance of a submission.

    Raises:
        InputError: it is missing or damaged.
    """
    path = folder.path / "provenance.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            "overrides": list(content["overrides"]),
            "working_directory": str(content["working_directory"]),
            **content,
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error})", "give the command once more yourself") from None


def command(folder: JobFolder) -> str:
    """What to type for the job of ``folder`` to be made again."""
    provenance = recorded(folder)
    words = shlex.join(["mvdiff", folder.job, *provenance["overrides"]])
    return f"cd {shlex.quote(provenance['working_directory'])} && {words}"

"""`mvdiff retry RUN`: what failed, once more, for what is missing."""

import contextlib
import json
import shlex
from argparse import Namespace
from collections.abc import Sequence
from functools import partial

from jobs.chain import chain
from jobs.compose import known_keys
from jobs.job import claims_work, job
from jobs.launch import Request, Shares, launch
from jobs.overview import Look, look_at
from jobs.parser import helped, named_job, named_run, parser
from jobs.remains import Again, recorded, remains
from jobs.runfolder import JobFolder, Run
from jobs.watch import aside
from mvdiff.durable import alone
from mvdiff.errors import InputError

HELP = """\
mvdiff retry: do what failed of a run once more

usage: mvdiff retry RUN [key=value ...] [--job NNN-JOB] [--dry-run] [--wait] [--json]

Submits the run's job that failed, was cancelled or vanished, with the words it was given then, in the folder where they
were given. Of a chain (then) it submits all of which that is so, or which never began because of it, in their order,
each behind the one before as at first; what is done stays done, and what runs is left alone: the rest is queued behind
it. What is there already is not made again: training goes on from its newest checkpoint, generation does the samples
that are missing, with no more workers than have something to do, and of synth those workers start again that failed.
Where jobs failed that have nothing to do with one another, the first in the order of the data is taken. A run of which
nothing failed is left alone. Further words stand behind those given then: cluster... for every job, another one for
the first that has such a key.

options
  --job NNN-JOB  this one alone (or its number, or train, generate ... for the newest of these)
  --dry-run      print the exact batch script (or command) and submit nothing
  --wait         stay until it ends, showing its log
  --json         print one JSON object on standard output and nothing else there

examples
  mvdiff retry mice
  mvdiff retry mice cluster.time_min=600 cluster.memory_gb=128

exit status
  0 done or queued, or nothing had failed; 1 the job failed; 2 the request was wrong"""


def retry(words: Sequence[str]) -> int:
    """Submit again what the words name; returns the exit status.

    Raises:
        InputError: no such run or job, it is still running, another command retries it, or the folder it was submitted
            from is gone.
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
    with contextlib.ExitStack() as held:
        if not asked.dry_run:
            try:
                held.enter_context(alone(run.path / "jobs", wait=False))
            except BlockingIOError:
                raise InputError(
                    f"another mvdiff retry of {run.name} is at work", f"let it end, then see mvdiff status {run.name}"
                ) from None
        return _submit(run, asked)


def _submit(run: Run, asked: Namespace) -> int:
    tell = partial(aside, "retry")
    seen = look_at([run], tell)
    wanted = remains(run, seen, named_job(run, asked.job) if asked.job else None)
    if not wanted.jobs:
        told = f"nothing of {run.name} failed"
        print(json.dumps({"job": "retry", "run": run.name, "state": "done"}) if asked.json else told)
        return 0
    where = wanted.jobs[0].where
    if not where.is_dir():
        raise InputError(
            f"{wanted.jobs[0].name} was submitted from {where}, which is gone",
            "give its mvdiff command once more yourself",
        )
    for folder in wanted.ahead.folders if wanted.ahead else ():
        tell(f"{folder.path.name} is {seen.judge(folder).state} and left alone: what follows it waits for it")
    if wanted.others:
        tell(f"{', '.join(one.name for one in wanted.jobs)} first; then once more for {', '.join(wanted.others)}")
    requests = [
        Request(one.job, [*one.words, *more], asked.dry_run, asked.wait, asked.json, _shares(one.folder, seen))
        for one, more in zip(wanted.jobs, _shared_out(wanted.jobs, asked.overrides), strict=True)
    ]
    with contextlib.chdir(where):
        if len(requests) > 1 or wanted.ahead:
            return chain(requests, wanted.ahead)
        return launch(requests[0])


def _shared_out(jobs: Sequence[Again], words: Sequence[str]) -> list[list[str]]:
    """Which of the further ``words`` each job gets: what is said of the cluster all of them, another the first that has
    such a key."""
    shares: list[list[str]] = [[] for _ in jobs]
    known = [known_keys(one.job) for one in jobs] if words and len(jobs) > 1 else []
    for word in words:
        key = word.partition("=")[0].lstrip("+~")
        if key.partition(".")[0] == "cluster":
            for share in shares:
                share.append(word)
        else:
            # a wrong key is told by a job that has others of its kind
            knows = (k for part in (key, key.partition(".")[0]) for k, keys in enumerate(known) if part in keys)
            shares[next(knows, 0)].append(word)
    return shares


def _shares(folder: JobFolder | None, seen: Look) -> Shares | None:
    """The workers of an array that failed, where each has a share of its own."""
    if folder is None:
        return None
    module, submission = job(folder.job), seen.submissions[folder.path]
    if not module.ARRAY or claims_work(module) or submission is None:
        return None
    words = seen.judge(folder).words
    failed = [submission.worker(id_) for id_ in submission.job_ids if words[id_] != "COMPLETED"]
    return Shares(folder.config().cluster.workers, failed)


def command(folder: JobFolder) -> str:
    """What to type for the job of ``folder`` to be made again."""
    provenance = recorded(folder)
    words = shlex.join(["mvdiff", folder.job, *provenance["overrides"]])
    return f"cd {shlex.quote(provenance['working_directory'])} && {words}"

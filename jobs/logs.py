"""`mvdiff logs RUN`: what the processes of a job have printed."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from jobs.failure import Failure, first_failure
from jobs.overview import look_at, spokesman
from jobs.parser import helped, named_job, named_run, parser
from jobs.runfolder import JobFolder, short
from jobs.state import JobState
from mvdiff.errors import InputError
from slurm.submission import Submission

HELP = """\
mvdiff logs: what the processes of a run's job have printed

usage: mvdiff logs RUN [--job NNN-JOB] [--rank N] [--follow] [--failed] [--json]

Prints the log of rank 0 of the newest job. A job that comes back goes on in the same log.

options
  --job NNN-JOB  another job: its name or number (002-train, 2), or train, generate ... for the newest of these
  --rank N       the log of rank N; of an array, that of member N
  --failed       the log of the process that failed first, which the others' errors only follow from
  --follow       go on until the job has ended, over its restarts, or until Ctrl-C
  --json         print one JSON object on standard output and nothing else there

examples
  mvdiff logs mice --follow
  mvdiff logs mice --failed
  mvdiff logs mice --job 003-generate --rank 12

exit status
  0 shown, 2 the request was wrong"""

POLL_S = 0.5
ASK_EVERY_S = 5.0


def logs(words: Sequence[str]) -> int:
    """Print the log that the words ask for; returns the exit status.

    Raises:
        InputError: no such run, job, rank or failure, or nothing was printed yet.
    """
    if helped(words, HELP):
        return 0
    options = parser("logs")
    options.add_argument("run")
    options.add_argument("--job")
    options.add_argument("--rank", type=int)
    for flag in ("--follow", "--failed", "--json"):
        options.add_argument(flag, action="store_true")
    asked = options.parse_intermixed_args(words)
    if asked.json and asked.follow:
        raise InputError("--follow and --json do not go together", "leave one of them out")
    if asked.failed and (asked.rank is not None or asked.follow):
        raise InputError(
            "--failed chooses the log itself, of a process that has ended", "leave --rank and --follow out"
        )
    run = named_run(asked.run)
    folder = named_job(run, asked.job)
    if asked.job is None:
        folder = spokesman(folder, look_at([run]))
    submission = folder.submission()
    if submission is None:
        raise InputError(f"{short(folder.path)} never came into a queue", f"mvdiff retry {folder.run.name}")
    failure = _failure(folder, submission) if asked.failed else None
    log = Path(failure.log) if failure else _log(submission, asked.rank or 0)
    if asked.follow:
        _follow(folder, log)
        return 0
    if not log.exists():
        state = _state(folder)
        raise InputError(
            f"{folder.path.name} has no log {log.name} ({'; '.join(filter(None, (state.state, state.why)))})",
            f"there are {_there(folder)}" if any(folder.logs.glob("*_log.out")) else "add --follow to wait for it",
        )
    text = log.read_text(encoding="utf-8", errors="replace")
    if asked.json:
        told = {"error": failure.error, "rank": failure.rank} if failure else {}
        answer = {"job": "logs", "run": folder.run.name, "of": folder.path.name, "log": str(log), **told}
        print(json.dumps(answer | {"lines": text.splitlines()}))
    else:
        print(text, end="" if text.endswith("\n") else "\n")
    return 0


def _failure(folder: JobFolder, submission: Submission) -> Failure:
    failure = first_failure(folder, submission)
    if failure is None:
        raise InputError(
            f"no process of {folder.path.name} says that it failed",
            f"read what it printed: mvdiff logs {folder.run.name}",
        )
    return failure


def _log(submission: Submission, number: int) -> Path:
    ids = submission.job_ids
    if len(ids) == 1:
        return submission.log(ids[0], number)
    if not 0 <= number < len(ids):
        raise InputError(f"--rank {number}: the array has no such member", f"give 0 to {len(ids) - 1}")
    return submission.log(ids[number])


def _there(folder: JobFolder) -> str:
    names = sorted(path.name for path in folder.logs.glob("*_log.out"))
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _state(folder: JobFolder) -> JobState:
    return look_at([folder.run]).judge(folder)


def _follow(folder: JobFolder, log: Path) -> None:
    asked = -ASK_EVERY_S
    ended = False
    grown = grown_lines(log)
    while True:
        # what was printed before the queue said that all is over
        for text in iter(lambda: next(grown), ""):
            print(text, end="", flush=True)
        if ended:
            return
        if time.monotonic() - asked >= ASK_EVERY_S:
            ended = not _state(folder).alive
            asked = time.monotonic()
        if not ended:
            time.sleep(POLL_S)


def grown_lines(log: Path) -> Iterator[str]:
    """What was added to ``log`` since the last time, in whole lines; an empty text where nothing was.

    A log that was begun anew (another file of its name, or a shorter one) is read from its begin.
    """
    at, file_number = 0, None
    while True:
        try:
            with log.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != file_number or found.st_size < at:
                    at, file_number = 0, found.st_ino
                file.seek(at)
                new = file.read()
        except FileNotFoundError:
            new = b""
        whole = new[: new.rfind(b"\n") + 1]
        at += len(whole)
        yield whole.decode("utf-8", "replace")

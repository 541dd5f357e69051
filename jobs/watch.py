"""Staying with a submitted job: its log as it grows, and how it ended."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.failure import first_failure
from jobs.runfolder import JobFolder, short
from mvdiff.events import read_events
from slurm.command import reason
from slurm.errors import RequestError
from slurm.submission import Submission, states

POLL_S = {"slurm": 0.5, "local": 0.1}
"""How often it is asked whether the job has ended: a controller is spared, a process on this machine need not be."""
MORE_S = 60.0
FOLLOWED = 16
"""How many jobs' logs are shown; those of all lie in the job's folder."""


def aside(name: str, line: str) -> None:
    """Tell a person who waits a line of what ``name`` does, beside the answer on standard output."""
    print(f"[{name}] {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Ended:
    """What was watched, when all of it had ended."""

    submission: Submission
    """With all that was added."""
    words: frozenset[str]
    """The queue's last word on each job: it may be silent when it is asked again."""


def watch(name: str, submission: Submission, more: Callable[[Submission, int], Submission]) -> Ended:
    """Show the lines that rank 0 writes, of the ``FOLLOWED`` jobs that start first, until the queue says that all have
    ended.

    Args:
        more: is asked once in a while, with the number of jobs that have not ended, and may add some.
    """
    tails: dict[str, _Tail] = {}
    asked = time.monotonic()
    silent, ended = False, None
    while True:
        _follow(name, submission, tails)
        for label, tail in tails.items():
            for line in tail.lines():
                aside(label, line)
        if ended:
            return ended
        try:
            found = states(submission).values()
        except RequestError as error:
            # Whatever keeps the queue from telling, it has the job: nothing is wrong with the request any more.
            if not silent:
                aside(name, f"{reason(error)}: waiting for it")
            silent = True
        else:
            silent, alive = False, sum(not state.ended for state in found)
            if not alive:
                ended = Ended(submission, frozenset(state.word for state in found))
            elif time.monotonic() > asked + MORE_S:
                submission, asked = more(submission, alive), time.monotonic()
        if not ended:
            # A long array takes the controller some time to tell of.
            time.sleep(POLL_S[submission.kind] * (1 + len(submission.job_ids) // 100))


def _follow(name: str, submission: Submission, tails: dict[str, "_Tail"]) -> None:
    """Add the logs that have appeared, as long as there is room for them, by what their lines are labelled with."""
    if len(tails) == min(FOLLOWED, len(submission.job_ids)):
        return
    there = {path.name for path in Path(submission.logs).iterdir()}
    for id_ in submission.job_ids:
        label = name if len(submission.job_ids) == 1 else f"{name} {submission.worker(id_)}"
        log = submission.log(id_)
        if len(tails) < FOLLOWED and label not in tails and log.name in there:
            tails[label] = _Tail(log)


def finished(folder: JobFolder, submission: Submission) -> bool:
    """Whether the last word of every job's rank 0 was that it finished."""
    last = {event["job_id"]: event["kind"] for event in task_events(folder) if event["rank"] == 0}
    return all(last.get(id_) == "task finished" for id_ in submission.job_ids)


def first_error(folder: JobFolder, ended: Ended) -> str:
    """The failure that came first in the last start of a job, in one line; the queue's word where no process could say
    anything."""
    failure = first_failure(folder, ended.submission)
    if failure:
        return failure.error
    words = ", ".join(sorted(ended.words))
    return f"the job ended ({words}) before its work was done: see the logs in {short(folder.logs)}"


def task_events(folder: JobFolder) -> list[dict[str, Any]]:
    """What the job's processes said of their own starts and ends, in the order of time."""
    events = [event for event in read_events(folder.events) if event["kind"].startswith("task ")]
    return sorted(events, key=lambda event: event["time"])


class _Tail:
    """New whole lines of a growing file, without submitit's own."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0

    def lines(self) -> list[str]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                new = file.read()
        except FileNotFoundError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._at += len(whole)
        lines = whole.decode("utf-8", "replace").splitlines()
        return [line for line in lines if line and not line.startswith("submitit ")]

"""Staying with a submitted job: its log as it grows, and how it ended."""

import sys
import time
from pathlib import Path
from typing import Any

from jobs.runfolder import JobFolder, short
from mvdiff.events import read_events
from slurm.submission import Submission, states

POLL_S = 0.5


def watch(name: str, submission: Submission) -> None:
    """Show the lines that rank 0 of every job writes until the queue says that all have ended."""
    logs = {id_: _Tail(submission.log(id_)) for id_ in submission.job_ids}
    ended = False
    while True:
        for index, tail in enumerate(logs.values()):
            for line in tail.lines():
                label = name if len(logs) == 1 else f"{name} {index}"
                print(f"[{label}] {line}", file=sys.stderr, flush=True)
        if ended:
            return
        ended = all(state.ended for state in states(submission).values())
        if not ended:
            time.sleep(POLL_S)


def finished(folder: JobFolder, submission: Submission) -> bool:
    """Whether the last word of every job's rank 0 was that it finished."""
    last = {event["job_id"]: event["kind"] for event in task_events(folder) if event["rank"] == 0}
    return all(last.get(id_) == "task finished" for id_ in submission.job_ids)


def first_error(folder: JobFolder, submission: Submission) -> str:
    """The failure that came first in the last start of a job, in one line; the queue's word where no process could say
    anything."""
    failures: dict[str, list[str]] = {}
    restarts: dict[str, int] = {}
    for event in task_events(folder):
        id_ = event["job_id"]
        if event["kind"] == "task started" and event["restart"] > restarts.get(id_, 0):
            failures[id_], restarts[id_] = [], event["restart"]
        if event["kind"] == "task failed":
            failures.setdefault(id_, []).append(event["error"])
    for errors in failures.values():
        if errors:
            return errors[0]
    words = sorted({state.word for state in states(submission).values()})
    return f"the job ended ({', '.join(words)}) before its work was done: see the logs in {short(folder.logs)}"


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

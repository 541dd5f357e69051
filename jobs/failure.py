"""Which process of a job failed first, and with what: the others' errors only follow from that one."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.runfolder import JobFolder
from mvdiff.events import last_events
from slurm.submission import Submission
from slurm.words import GAVE_UP

TAIL = 1 << 16
"""Bytes of a log's end that are read: a failure is the last that a process says, its traceback included."""
_CONSEQUENCE = re.compile(
    "Connection (closed|reset|refused)|Broken pipe|NCCL|[Gg]loo|c10d|DistBackendError|DistNetworkError|TCPStore|"
    "ProcessGroup|[Bb]arrier|timed out waiting for"
)
"""In the errors of ranks that have lost another one."""
_KILLED = re.compile(
    r"srun: error: \S+: tasks? (?P<task>\d+)[\d,-]*: (?P<why>Killed|Segmentation fault|Out Of Memory|Bus error|Aborted)"
    r"|^rank (?P<rank>\d+) (?P<by>was killed by \w+)",
    re.MULTILINE,
)
_NOT_STARTED = re.compile(r"mvdiff: not started: [^\n]*")
"""Said by the batch script, or by what starts a process."""
_OF_THE_QUEUE = re.compile(r"srun: |slurmstepd|submitit |job \S+ (goes back|ended|was ended|cannot come back)")
"""Begin of a log's lines that tell what became of a job, and not why."""
_OOM = re.compile(r"oom.kill|Out Of Memory", re.IGNORECASE)


@dataclass(frozen=True)
class Failure:
    """The first failure of a job's last start."""

    job_id: str
    rank: int
    error: str
    """In one line."""
    log: str
    """Where that process wrote."""


def first_failure(folder: JobFolder, submission: Submission, job_ids: Sequence[str] | None = None) -> Failure | None:
    """The failure that came first among the jobs ``job_ids`` (all), each job's last start considered; None where no
    process and no log tells of any."""
    wanted = set(submission.job_ids if job_ids is None else job_ids)
    failures: dict[str, list[dict[str, Any]]] = {}
    restarts: dict[str, int] = {}
    events = [event for path in _logs_of(folder, wanted) for event in last_events(path, TAIL, kind="task ")]
    for event in sorted(events, key=lambda event: event["time"]):
        id_ = str(event.get("job_id"))
        if event["kind"] == "task started" and event.get("restart", 0) > restarts.get(id_, 0):
            failures[id_], restarts[id_] = [], event["restart"]
        if event["kind"] == "task failed" and "error" in event and "rank" in event:
            failures.setdefault(id_, []).append(event)
    told = [_first_of(of_job, submission) for of_job in failures.values() if of_job]
    if told:
        return min(told, key=lambda one: one[0])[1]
    gave_up = next(iter(sorted(Path(submission.logs).glob(f"{GAVE_UP}-*"))), None)
    killed = next((found for id_ in sorted(wanted) if (found := _killed(submission, id_))), None)
    if killed or gave_up is None:
        return killed
    id_ = gave_up.name.removeprefix(f"{GAVE_UP}-").rpartition("-")[0]
    why, log = " ".join(gave_up.read_text(encoding="utf-8").split()), submission.log(id_)
    # what kept the work from beginning is in no event: it is the last that its start said
    said = [line for line in tail_of(log).splitlines() if line.strip() and not _OF_THE_QUEUE.match(line)]
    if not events and said:
        why += f" ({' '.join(said[-1].split())})"
    return Failure(id_, 0, why, str(log))


def _logs_of(folder: JobFolder, job_ids: set[str]) -> list[Path]:
    if not folder.events.is_dir():
        return []
    entries = (entry for entry in os.scandir(folder.events) if entry.name.endswith(".jsonl"))
    return [Path(entry.path) for entry in entries if entry.name.rpartition("-")[0] in job_ids]


def _first_of(events: list[dict[str, Any]], submission: Submission) -> tuple[float, Failure]:
    """When the failure came that the others of the job follow from, and which it is."""
    first = next((event for event in events if not _CONSEQUENCE.search(event["error"])), None)
    if first is None:
        killed = _killed(submission, str(events[0]["job_id"]))
        if killed is not None:
            return events[0]["time"], killed
        first = events[0]
    id_, rank = str(first["job_id"]), int(first["rank"])
    return first["time"], Failure(id_, rank, " ".join(str(first["error"]).split()), str(submission.log(id_, rank)))


def _killed(submission: Submission, job_id: str) -> Failure | None:
    """A process that could say nothing any more, by what srun, or the controller of a local job, wrote of it."""
    text = tail_of(submission.log(job_id))
    found = _KILLED.search(text)
    if not found:
        held = _NOT_STARTED.search(text)
        return Failure(job_id, 0, held[0], str(submission.log(job_id))) if held else None
    rank = int(found["task"] or found["rank"])
    why = "ran out of memory" if _OOM.search(text) else found["by"] or f"ended: {found['why']}"
    return Failure(job_id, rank, f"rank {rank} {why}", str(submission.log(job_id, rank)))


def tail_of(path: Path) -> str:
    """The end of a log; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""

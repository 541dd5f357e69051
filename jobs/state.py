"""Where a submission stands, in words: from the queue's answer and what lies in the job's folder."""

import json
import math
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobs.failure import Failure, first_failure
from jobs.runfolder import JobFolder
from jobs.starts import Starts, starts
from mvdiff.events import last_events
from mvdiff.progress import duration
from slurm.outlook import Standing
from slurm.submission import Submission
from slurm.words import BEGAN, CANCELLED

STALLED_S = 900.0
"""A job that runs and has left no sign for so long is called stalled: no event, no line in a log, no heartbeat."""
_END = 4096
"""Bytes of an event log that hold its last word, unless that is a traceback."""
ALIVE = ("running", "queued", "stalled", "suspended", "held")
_REASONS = {
    "Priority": "others are ahead of it",
    "Resources": "waits for nodes to become free",
    "BeginTime": "may start in a moment",
    "JobHeldUser": "held by its owner: scontrol release {id}",
    "JobHeldAdmin": "held by an administrator: ask them",
    "Dependency": "waits for another job",
    "DependencyNeverSatisfied": "waits for a job that failed: mvdiff cancel, mend that one, then mvdiff retry",
    "PartitionDown": "its partition is closed: see sinfo",
    "PartitionInactive": "its partition is closed: see sinfo",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved: see sinfo -R",
    "JobArrayTaskLimit": "as many members run as the array allows at once",
    "Reservation": "waits for its reservation",
    "Licenses": "waits for a licence",
    "PartitionTimeLimit": "asks for more time than its partition allows: cluster.time_min",
    "PartitionNodeLimit": "asks for more nodes than its partition allows, or enough of them are down: see sinfo -R",
}
_NODES_AWAY = "nodes required for job are down"
"""How the queue begins its own sentence for ``ReqNodeNotAvail``."""


@dataclass(frozen=True)
class JobState:
    """One submission."""

    name: str
    """NNN-JOB."""
    state: str
    """queued, held, running, suspended, stalled, done, failed, cancelled; gone: it ended without a word, and the queue
    has forgotten it; unknown: the queue does not answer, or another machine would know; unsent: it never came into a
    queue, and has done nothing."""
    words: dict[str, str] = field(default_factory=dict)
    """The queue's word for every job, or what the job's own files say where the queue has forgotten it."""
    since: float | None = None
    """Since when that is so, in seconds since 1970."""
    why: str | None = None
    """Why it waits, or is not known."""
    ends: float | None = None
    """When the first time limit of those that run is reached."""
    starts: Starts = field(default_factory=Starts)
    failure: Failure | None = None

    @property
    def alive(self) -> bool:
        """Whether it runs or waits, as far as can be told."""
        return self.state in ALIVE or self.state == "unknown"

    @property
    def ending(self) -> bool:
        """Whether all of it was cancelled, and no more than that end is still to come."""
        return bool(self.words) and all(map(self.starts.was_cancelled, self.words))

    @property
    def members(self) -> str:
        """How many of an array's jobs are where; empty for a single job."""
        if len(self.words) < 2:
            return ""
        counts = Counter(word.lower().replace("pending", "queued") for word in self.words.values())
        return ", ".join(f"{count} {word}" for word, count in counts.most_common())


def own_word(folder: JobFolder, job_id: str) -> str | None:
    """The state of a job that runs no more, by the last event of its rank 0; None where that tells no end."""
    return _last_word(folder.events / f"{job_id}-0.jsonl")


def recorded_end(folder: JobFolder, submission: Submission) -> str | None:
    """Whether all jobs of the submission have ended for good by what they wrote themselves, which no queue need be
    asked about: "done", or "failed"; None where that is not certain.

    One is done once every rank's last word is that it finished, and has failed once its newest start gave up: any other
    end may be followed by another start.
    """
    known = starts(folder)
    unfinished = [id_ for id_ in submission.job_ids if not _all_finished(folder, id_)]
    if not submission.job_ids or not all(map(known.has_given_up, unfinished)):
        return None
    return "failed" if unfinished else "done"


def _all_finished(folder: JobFolder, job_id: str) -> bool:
    own = [_last_word(log) for log in folder.events.glob(f"{job_id}-*.jsonl")]
    return own_word(folder, job_id) == "COMPLETED" and set(own) == {"COMPLETED"}


def _last_word(log: Path) -> str | None:
    last = last_events(log, _END, most=1, kind="task ")
    return {"task finished": "COMPLETED", "task failed": "FAILED"}.get(last[0]["kind"]) if last else None


def judged(
    folder: JobFolder,
    submission: Submission | None,
    standings: Mapping[str, Standing],
    silent: str | None,
    signs: Sequence[Path],
    now: float,
) -> JobState:
    """Where the submission of ``folder`` stands.

    Args:
        standings: what the queue, and the accounting where there is one, know by job id.
        silent: why the queue did not answer, if it did not.
        signs: further folders that change while the job works.
        now: seconds since 1970.
    """
    if submission is None:
        return _unqueued(folder)
    waiting = {id_: standings[id_] for id_ in submission.job_ids if id_ in standings and standings[id_].waits}
    known = starts(folder, waiting)
    words = {id_: _word(folder, submission, id_, standings, known, bool(silent)) for id_ in submission.job_ids}
    found = set(words.values())
    running = [
        standings[id_] for id_ in words if id_ in standings and not (standings[id_].ended or standings[id_].waits)
    ]

    def told(state: str, since: float | None, why: str | None = None, failure: Failure | None = None) -> JobState:
        ends = min((one.ends for one in running), default=math.inf)
        since = None if not since or math.isinf(since) else since
        return JobState(folder.path.name, state, words, since, why, None if math.isinf(ends) else ends, known, failure)

    if running:
        touched = _touched(folder, signs)
        if all(one.word in ("SUSPENDED", "STOPPED") for one in running):
            return told("suspended", None, "by the queue: see scontrol show job")
        started = min(one.started for one in running)
        latest = max((one for one in (touched, started) if one and math.isfinite(one)), default=now)
        if now - latest > STALLED_S:
            return told("stalled", latest, "no sign of work since then: see mvdiff logs, then mvdiff cancel and retry")
        ending = all(map(known.was_cancelled, words))
        since = began(folder) if math.isinf(started) else started
        return told("running", since, "cancelled: it saves what it has, and ends" if ending else None)
    if waiting:
        id_, first = next(iter(waiting.items()))
        state = "held" if "held" in first.reason.lower() else "queued"
        return told(state, min(one.submitted for one in waiting.values()), in_words(first.reason, id_))
    ended = _touched(folder, ())
    if found <= {"COMPLETED"}:
        return told("done", ended)
    if "UNKNOWN" in found and submission.kind != "slurm":
        return told("unknown", None, f"it was started on {_host(folder)}: ask there")
    if silent and "UNKNOWN" in found:
        newest = _touched(folder, signs)
        sign = f"; its newest sign of work came {duration(max(0.0, now - newest))} ago" if newest else ""
        return told("unknown", None, f"the queue does not answer{sign}")
    failed = [id_ for id_, word in words.items() if word not in ("COMPLETED", "CANCELLED", "UNKNOWN")]
    if failed or ("UNKNOWN" in found and known.gave_up):
        return told("failed", ended, failure=first_failure(folder, submission, failed or None))
    before = ", ".join(one.path.name for one in folder.follows())
    never = f"never began: it was to follow {before}" if before and not began(folder) else None
    if "CANCELLED" in found or never:
        return told("cancelled", ended or _asked_at(folder), never)
    return told(
        "gone", ended, "it ended without a word and the queue has forgotten it: see mvdiff logs, then mvdiff retry"
    )


def _unqueued(folder: JobFolder) -> JobState:
    """A job that no queue knows: the command that asked for it did its work itself, or was interrupted."""
    ids = (log.stem.removesuffix("-0") for log in folder.events.glob("*-0.jsonl"))
    words = {id_: word for id_ in ids if (word := own_word(folder, id_))}
    if not words:
        return JobState(folder.path.name, "unsent")
    state = "done" if set(words.values()) == {"COMPLETED"} else "failed"
    return JobState(folder.path.name, state, words, _touched(folder, ()))


def in_words(reason: str, job_id: str) -> str:
    """The queue's reason for which a job waits, as a person would say it, with its own word behind."""
    if reason.lower().startswith(_NODES_AWAY):
        return f"{_REASONS['ReqNodeNotAvail']} (ReqNodeNotAvail)"
    key = reason.partition(",")[0].strip("()")
    if key in _REASONS:
        return f"{_REASONS[key].format(id=job_id)} ({key})"
    if key.startswith(("Assoc", "QOS")):
        return f"a limit of the account's or QOS's is reached ({key})"
    return reason if key not in ("", "None") else "just submitted"


def _word(
    folder: JobFolder, submission: Submission, id_: str, standings: Mapping[str, Standing], known: Starts, silent: bool
) -> str:
    standing = standings.get(id_)
    if standing is None or (submission.kind != "slurm" and standing.word == "COMPLETED"):
        own = own_word(folder, id_)
        # what failed may be on its way back while the queue does not say
        if own and (own == "COMPLETED" or not silent or submission.kind != "slurm"):
            return own
        if known.was_cancelled(id_):
            return "CANCELLED"
        return "FAILED" if id_ in known.gave_up else _unfinished(folder, submission)
    return standing.word


def _unfinished(folder: JobFolder, submission: Submission) -> str:
    """The word for a job of which nobody says how it ended: of a local one only its own machine knows the processes."""
    here = submission.kind != "slurm" and _host(folder) == platform.node()
    return "FAILED" if here else "UNKNOWN"


def _host(folder: JobFolder) -> str:
    """The machine from which the job was started."""
    try:
        return str(json.loads((folder.path / "provenance.json").read_text(encoding="utf-8"))["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return platform.node()


def began(folder: JobFolder) -> float:
    """When the newest start of a job began that no queue knows of; 0 where none has yet."""
    return max((word.stat().st_mtime for word in folder.logs.glob(f"{BEGAN}-*")), default=0.0)


def _asked_at(folder: JobFolder) -> float:
    """When a job that never began was cancelled, or else submitted."""
    said = [word.stat().st_mtime for word in folder.logs.glob(f"{CANCELLED}-*")]
    return max(said, default=(folder.path / "submission.json").stat().st_mtime)


def _touched(folder: JobFolder, signs: Sequence[Path]) -> float:
    """When the job left its newest sign; 0 where there is none."""
    times = []
    for place in (folder.events, folder.logs):
        if place.is_dir():
            names = (entry for entry in os.scandir(place) if entry.name.endswith((".jsonl", "_log.out")))
            times += [entry.stat().st_mtime for entry in names]
    times += [sign.stat().st_mtime for sign in signs if sign.exists()]
    return max(times, default=0.0)

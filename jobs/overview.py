"""Where runs stand: all of them by one question to the queue, and by the ends of what their jobs have written."""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.runfolder import JobFolder, Run
from jobs.state import JobState, began, judged, own_word
from mvdiff.events import last_events
from mvdiff.generate.lease import FOLDER as LEASES
from mvdiff.generate.plan import SET_FILE
from mvdiff.generate.tally import Tally, tally
from mvdiff.progress import duration
from mvdiff.train.status import Status, status
from slurm.command import reason
from slurm.errors import RequestError
from slurm.outlook import QUICK_S, Standing, look, recall
from slurm.patience import announced, persevere
from slurm.submission import Submission

TAIL = 1 << 14
"""Bytes of an event log in which the newest steps stand."""
LINES = 12
"""So many of its events tell the pace."""


@dataclass(frozen=True)
class Look:
    """What the queue, and the accounting where there is one, said of all the submissions of some runs at once."""

    submissions: dict[Path, Submission | None]
    """By the folder of the job."""
    standings: dict[str, Standing]
    silent: str | None
    """Why the queue did not answer, if it did not."""
    now: float

    def judge(self, folder: JobFolder) -> JobState:
        """Where the submission of ``folder`` stands."""
        signs = [set_ / LEASES for set_ in result_sets(folder.run)] if folder.job == "generate" else []
        state = judged(folder, self.submissions[folder.path], self.standings, self.silent, signs, self.now)
        if folder.job == "generate" and state.state in ("failed", "gone", "cancelled") and not folder.unsettled:
            counts = newest_tally(folder.run)
            if counts and counts.finished:
                # its workers share the work: whoever failed, others have done it
                return JobState(state.name, "done", state.words, state.since, starts=state.starts)
        return state

    def may_live(self, folder: JobFolder) -> bool:
        """Whether any of the submission's jobs runs or waits, or nobody can tell."""
        submission = self.submissions[folder.path]
        ids = submission.job_ids if submission else []
        if any(id_ in self.standings and not self.standings[id_].ended for id_ in ids):
            return True
        if submission is None or (submission.kind == "slurm" and not self.silent):
            return False
        return self.judge(folder).state == "unknown"


def look_at(
    runs: Sequence[Run], tell: Callable[[str], None] | None = None, only: Sequence[JobFolder] | None = None
) -> Look:
    """Ask once for all the jobs of ``runs``; a queue that does not answer is told in what comes back.

    Args:
        only: the jobs that matter, if not all: nobody is asked where no queue has any of them.
        tell: given where nothing can be done without the queue, which is waited for then: as for ``persevere``. Without
            it the queue has a few seconds.
    """
    folders = [folder for run in runs for folder in run.jobs()] if only is None else only
    submissions = {folder.path: folder.submission() for folder in folders}
    sent = [submission for submission in submissions.values() if submission]
    silent = None
    try:
        standings = _waited_for(sent, tell) if tell else look(sent, QUICK_S)
    except RequestError as error:
        standings, silent = (
            look(one for one in sent if one.kind != "slurm"),
            f"the queue does not answer ({reason(error)})",
        )
    if silent is None:
        forgotten = [
            id_
            for folder in folders
            if (submission := submissions[folder.path]) and submission.kind == "slurm"
            for id_ in submission.job_ids
            if id_ not in standings and own_word(folder, id_) is None
        ]
        standings |= recall(forgotten)
    return Look(submissions, standings, silent, time.time())


def _waited_for(sent: Sequence[Submission], tell: Callable[[str], None]) -> dict[str, Standing]:
    with announced(tell):
        return persevere(lambda: look(sent), tell)


@dataclass(frozen=True)
class RunState:
    """One run: of its jobs the one that runs or waits, or else the newest."""

    run: Run
    job: JobState
    train: Status | None
    results: Tally | None

    @property
    def state(self) -> str:
        return self.job.state

    def line(self, now: float) -> str:
        """What is to be said besides the state, for people."""
        return "; ".join(part for part in self._parts(now) if part)

    def to_json(self) -> dict[str, Any]:
        training = self.train and {
            "step": self.train.step, "steps": self.train.steps, "loss": self.train.loss,
            "samples_per_second": self.train.samples_per_second, "eta_s": self.train.eta_seconds,
        }  # fmt: skip
        return {"run": self.run.name, **job_json(self.job), "train": training, "generate": counts_json(self.results)}

    def _parts(self, now: float) -> list[str]:
        told = [self.job.why or "", self.job.members]
        failure = self.job.failure
        if failure:
            told.append(f"rank {failure.rank} of job {failure.job_id} failed first: {failure.error}")
        if self.train and self.train.steps:
            told.append(step_words(self.train, self.job, now))
        if self.results:
            told.append(self.results.line())
        return [*told, self.job.starts.told]


def step_words(train: Status, job: JobState, now: float) -> str:
    """Step and loss; of a job that runs also speed and time left."""
    told = f"step {train.step}/{train.steps}"
    if train.loss is not None:
        told += f", loss {train.loss:.4f}"
    if job.state != "running":
        return told
    left = time_left(train, job, now)
    return told + f", {train.samples_per_second:.1f} samples/s" + (f", {left}" if left else "")


def time_left(train: Status, job: JobState, now: float) -> str:
    """How long a training that runs takes, beside the time limit where that comes first; empty while nobody knows."""
    if train.eta_seconds is None:
        return ""
    told = f"{duration(train.eta_seconds)} left"
    if job.ends is None or train.eta_seconds <= job.ends - now:
        return told
    return f"{told} (the time limit comes in {duration(max(0.0, job.ends - now))}: it goes on by itself)"


def job_json(job: JobState) -> dict[str, Any]:
    """A submission as an object."""
    return {
        "job": job.name, "state": job.state, "since": job.since, "why": job.why, "time_limit_at": job.ends,
        "jobs": job.words, "restarts": sum(job.starts.restarts.values()), "preempted": job.starts.preempted,
        "out_of_time": job.starts.out_of_time, "ended_unasked": job.starts.unasked,
        "failure": job.failure and asdict(job.failure),
    }  # fmt: skip


def counts_json(counts: Tally | None) -> dict[str, int] | None:
    """Samples of a result set as an object."""
    return {**asdict(counts), "left": counts.left} if counts else None


def survey(runs: Sequence[Run], seen: Look) -> list[RunState]:
    """Where each of ``runs``, which were ``seen``, stands that anything was submitted for, those that run or wait
    first, the newest first."""
    states = [state for run in runs if (state := _state(run, seen))]
    return sorted(states, key=lambda one: (not one.job.alive, -(one.job.since or math.inf)))


def runs_below(root: Path) -> list[Run]:
    """The runs in the folder ``root``."""
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".")]
    return [Run(root / name) for name in sorted(names) if (root / name / "jobs").is_dir()]


def result_sets(run: Run) -> list[Path]:
    """Every result set of the run, the one that was asked for last first."""
    if not run.results.is_dir():
        return []
    with os.scandir(run.results) as entries:
        folders = [Path(entry.path) for entry in entries if (Path(entry.path) / SET_FILE).exists()]
    return sorted(folders, key=_asked_at, reverse=True)


def newest_tally(run: Run) -> Tally | None:
    """What the result set holds that was asked for last."""
    return next((tally(folder) for folder in result_sets(run)), None)


def _asked_at(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder / "asked.json", folder / SET_FILE) if path.exists())


def _state(run: Run, seen: Look) -> RunState | None:
    folders = run.jobs()
    if not folders:
        return None
    living = [folder for folder in folders if seen.may_live(folder)]
    shown = spokesman((living or folders)[-1], seen)
    train = status(_newest_events(shown, seen)) if shown.job == "train" else None
    return RunState(run, seen.judge(shown), train, newest_tally(run) if shown.job == "generate" else None)


def spokesman(folder: JobFolder, seen: Look) -> JobFolder:
    """The job that tells how things stand with ``folder``: of a chain that has not come to it yet, the one that runs,
    waits for something else, or has failed."""
    while not began(folder):
        before = next((one for one in folder.follows() if one.path in seen.submissions), None)
        if before is None or seen.judge(before).state == "done":
            break
        folder = before
    return folder


def _newest_events(folder: JobFolder, seen: Look) -> list[dict[str, Any]]:
    submission = seen.submissions[folder.path]
    ids = submission.job_ids if submission else []
    return [event for id_ in ids for event in last_events(folder.events / f"{id_}-0.jsonl", TAIL, LINES)]

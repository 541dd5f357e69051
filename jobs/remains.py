"""What of a run is to be done once more, in which order and behind what: from its job folders and one look at the
queue."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs import JOBS
from jobs.chain import Ahead, behind
from jobs.job import job
from jobs.overview import Look
from jobs.runfolder import JobFolder, Run
from jobs.state import JobState
from mvdiff.errors import InputError
from slurm.sbatch import Before


@dataclass(frozen=True)
class Again:
    """A job that is to be submitted."""

    job: str
    words: Sequence[str]
    """What it was given."""
    where: Path
    """The folder in which it was."""
    folder: JobFolder | None
    """Of the submission that failed; None where its chain never came to it."""

    @property
    def name(self) -> str:
        return self.folder.path.name if self.folder else self.job


@dataclass(frozen=True)
class Remains:
    """Jobs that follow one another."""

    jobs: Sequence[Again] = ()
    """In their order; none where nothing failed."""
    ahead: Ahead | None = None
    """What the first of them follows, which runs or waits."""
    others: Sequence[str] = field(default_factory=list)
    """Jobs of the run that failed besides, and have nothing to do with these."""


def remains(run: Run, seen: Look, chosen: JobFolder | None) -> Remains:
    """What is to be done once more of the run, or of the job ``chosen`` alone.

    Of each kind of job the newest counts, and with it those that it was queued behind; where another job followed an
    older one, it follows the newest. Several chains are brought back one at a time: the one with the earliest
    failure in the order of the data first.

    Raises:
        InputError: a job that runs or waits is in the way, or a submission's record cannot be read.
    """
    current = [chosen] if chosen else _current(run)
    states = {folder.path: seen.judge(folder) for folder in current}
    alive = [folder for folder in current if states[folder.path].alive]
    failed = [folder for folder in current if folder not in alive and states[folder.path].state != "done"]
    if not failed:
        if alive:
            raise _in_the_way(run, states[alive[0].path])
        return Remains()
    if chosen:
        return Remains([_once_more(chosen)])
    first = min(failed, key=lambda folder: JOBS.index(folder.job))
    members = _linked(first, current)
    jobs = [folder for folder in members if folder in failed]
    ahead = [folder for folder in members if folder in alive]
    for folder in alive:
        state, submission = states[folder.path], seen.submissions[folder.path]
        queued = submission is not None and submission.kind == "slurm" and state.state != "unknown"
        # the queue starts nothing behind a job that was cancelled
        if not queued or state.ending or folder not in ahead or members.index(folder) > members.index(jobs[0]):
            raise _in_the_way(run, state)
    again = [_once_more(folder) for folder in jobs]
    if len(again) == 1:
        again += _never_begun(jobs[0], current)
    together = [one for one in again if one.where == again[0].where]
    others = [one.name for one in again if one not in together]
    others += [folder.path.name for folder in failed if folder not in jobs]
    return Remains(together, _ahead(ahead, seen) if ahead else None, others)


def _current(run: Run) -> list[JobFolder]:
    """The newest submission of each kind of job, and those of the same kind before it in its chain."""
    newest = {folder.job: folder for folder in run.jobs()}
    counting = {one.path for last in newest.values() for one in _chain(last) if one.job == last.job}
    return [folder for folder in run.jobs() if folder.path in counting]


def _chain(folder: JobFolder) -> list[JobFolder]:
    """The jobs of its run that came before it in its command, the first one first, and itself."""
    before = [one for one in folder.follows() if one.run == folder.run]
    return [*(_chain(before[0]) if before else []), folder]


def _linked(first: JobFolder, current: Sequence[JobFolder]) -> list[JobFolder]:
    """Those of ``current`` that follow one another and ``first``, in their order."""
    newest = {folder.job: folder for folder in current}
    place = {folder.path: folder.path.name for folder in current}
    parts = [{folder.path} for folder in current]
    for folder in current:
        for before in folder.follows():
            if before.run != folder.run or before.job not in newest:
                continue
            now = before if before in current else newest[before.job]
            # it stands where the one stood that it replaces
            place[now.path] = min(place[now.path], before.path.name)
            joined = [part for part in parts if part & {now.path, folder.path}]
            parts = [part for part in parts if part not in joined] + [set().union(*joined)]
    own = next(part for part in parts if first.path in part)
    return sorted((folder for folder in current if folder.path in own), key=lambda folder: place[folder.path])


def _never_begun(folder: JobFolder, current: Sequence[JobFolder]) -> list[Again]:
    """What the command that submitted ``folder`` was to go on to by itself, and nobody has submitted since."""
    provenance = recorded(folder)
    since = {one.job for one in current if one.path.name > folder.path.name}
    where = Path(provenance["working_directory"])
    return [
        Again(later["job"], later["overrides"], where, None)
        for later in provenance.get("then", ())
        if later["job"] not in since
    ]


def _ahead(folders: Sequence[JobFolder], seen: Look) -> Ahead:
    after: list[Before] = []
    for folder in folders:
        submission = seen.submissions[folder.path]
        assert submission is not None
        after = behind(job(folder.job), submission.job_ids, after)
    return Ahead(folders, after)


def _once_more(folder: JobFolder) -> Again:
    provenance = recorded(folder)
    return Again(folder.job, provenance["overrides"], Path(provenance["working_directory"]), folder)


def _in_the_way(run: Run, state: JobState) -> InputError:
    return InputError(
        f"{state.name} is {state.state}{f', {state.why}' if state.why else ''}",
        f"wait for it, or end it first: mvdiff cancel {run.name}",
    )


def recorded(folder: JobFolder) -> dict[str, Any]:
    """The provenance of a submission.

    Raises:
        InputError: it is missing or damaged.
    """
    path = folder.path / "provenance.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            **content,
            "overrides": list(content["overrides"]),
            "working_directory": str(content["working_directory"]),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error})", "give the command once more yourself") from None

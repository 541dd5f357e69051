"""How often the jobs of a submission started, and why they came back, from the names of the files in their logs."""

import os
import re
from collections.abc import Collection
from dataclasses import dataclass, field

from jobs.runfolder import JobFolder
from slurm.cluster import LEAD_S
from slurm.words import BEGAN, CANCELLED, GAVE_UP, REQUEUE_ASKED, STOPPED, UNASKED

_WORD = re.compile(rf"({BEGAN}|{STOPPED}|{REQUEUE_ASKED}|{GAVE_UP}|{UNASKED}|{CANCELLED})-(\d+(?:_\d+)?)-(\d+)")
_TIME_LIMIT = re.compile(r"^  time_min: (\d+)$", re.MULTILINE)
_LEAD = re.compile(r"^  signal_lead_s: (\d+)$", re.MULTILINE)
_EARLY_S = 90.0
"""SLURM may send a warning so much before it is due."""


@dataclass
class Starts:
    """Of all the jobs of one submission."""

    restarts: dict[str, int] = field(default_factory=dict)
    """How often each job that has begun came back."""
    preempted: int = 0
    """How often one was told to stop long before its time limit could be the reason."""
    out_of_time: int = 0
    """How often one was told to stop near its time limit."""
    unasked: int = 0
    """How often one ended without having been told to."""
    gave_up: dict[str, int] = field(default_factory=dict)
    """The jobs that another start would not help, and which start said so last."""
    cancelled: set[str] = field(default_factory=set)
    """The jobs, or whole arrays, that mvdiff cancel has ended."""

    def has_given_up(self, job_id: str) -> bool:
        """Whether the newest start of a job gave up."""
        return self.gave_up.get(job_id, -1) >= self.restarts.get(job_id, 0)

    def was_cancelled(self, job_id: str) -> bool:
        """Whether mvdiff cancel has ended a job, alone or with its array."""
        return not self.cancelled.isdisjoint((job_id, job_id.partition("_")[0]))

    @property
    def told(self) -> str:
        """In words; empty where no job came back."""
        counts = {"preempted": self.preempted, "out of time": self.out_of_time, "ended unasked": self.unasked}
        why = ", ".join(f"{word} {_times(count)}" for word, count in counts.items() if count)
        back = sum(self.restarts.values())
        return f"resumed {_times(back)}" + (f" ({why})" if why else "") if back else why


def starts(folder: JobFolder, waiting: Collection[str] = ()) -> Starts:
    """What the files in the logs of ``folder`` tell; nothing where there are none.

    A stop counts if the job has come back from it, or is ``waiting`` to: a cancelled one stops in the same way.
    """
    found = Starts()
    began: dict[tuple[str, str], os.DirEntry[str]] = {}
    stopped: dict[tuple[str, str], os.DirEntry[str]] = {}
    try:
        entries = list(os.scandir(folder.logs))
    except FileNotFoundError:
        return found
    for entry in entries:
        match = _WORD.fullmatch(entry.name)
        if not match:
            continue
        word, job_id, restart = match.groups()
        if word == BEGAN:
            found.restarts[job_id] = max(found.restarts.get(job_id, 0), int(restart))
            began[job_id, restart] = entry
        elif word == STOPPED:
            stopped[job_id, restart] = entry
        elif word == UNASKED:
            found.unasked += 1
        elif word == GAVE_UP:
            found.gave_up[job_id] = max(found.gave_up.get(job_id, 0), int(restart))
        elif word == CANCELLED:
            found.cancelled.add(job_id)
    came_back = {
        (job_id, restart): end
        for (job_id, restart), end in stopped.items()
        if job_id in waiting or int(restart) < found.restarts.get(job_id, 0)
    }
    if came_back:
        early = _surely_early_s(folder)
        lasted = [end.stat().st_mtime - began.get(start, end).stat().st_mtime for start, end in came_back.items()]
        found.preempted = sum(seconds < early for seconds in lasted)
        found.out_of_time = len(lasted) - found.preempted
    return found


def _surely_early_s(folder: JobFolder) -> float:
    """A start that was told to stop before it was so old was not told so by its time limit."""
    text = (folder.path / "config.yaml").read_text(encoding="utf-8")
    limit, lead = _TIME_LIMIT.search(text), _LEAD.search(text)
    limit_s = 60.0 * int(limit[1]) if limit else 0.0
    lead_s = float(lead[1]) if lead else min(LEAD_S, limit_s / 3)
    return max(limit_s - lead_s - _EARLY_S, limit_s / 3)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"

"""When a job's time is up: what the queue says, counted down on this process's own clock."""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from slurm.place import Place
from slurm.queue import job_fields, moment


class Deadline:
    """How much time is left to the job of this process.

    The queue is asked when ``left`` is first needed and at every ``renew``; in between the monotonic clock runs. On
    preemption SLURM moves the end of a job to the end of its grace.
    """

    def __init__(self, asked: Callable[[], float | None], told: float | None = None) -> None:
        """``asked`` gives the seconds that are left, None where they cannot be told; ``told``: what it would say."""
        self._asked = asked
        self._ends: float | None = None if told is None else time.monotonic() + told

    @classmethod
    def of(cls, place: Place, limit_s: float) -> "Deadline":
        """The deadline of this process, whose job was given ``limit_s`` seconds."""
        if place.kind == "slurm":
            # SLURM 23 and later say it to every process; older ones have to be asked.
            said = os.environ.get("SLURM_JOB_END_TIME", "")
            return cls(lambda: _of_slurm(place.job_id), float(said) - time.time() if said.isdigit() else None)
        # The local controller counts from every start anew.
        ends = time.monotonic() - _age() + limit_s if place.kind == "local" else math.inf
        return cls(lambda: ends - time.monotonic())

    def left(self) -> float:
        """Seconds until the job's time is up, negative when it is; infinite where it has no limit or none is known."""
        if self._ends is None:
            self.renew()
        assert self._ends is not None
        return self._ends - time.monotonic()

    def renew(self) -> None:
        """Ask the queue, which may have moved the end; the last answer stays while there is no other one."""
        left = self._asked()
        if left is not None:
            self._ends = time.monotonic() + left
        elif self._ends is None:
            self._ends = math.inf


def _of_slurm(job_id: str) -> float | None:
    shown = job_fields(job_id)
    return moment(shown["EndTime"]) - time.time() if "EndTime" in shown else None


def _age() -> float:
    """How long this process has run, in seconds."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")

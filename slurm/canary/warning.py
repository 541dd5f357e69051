"""Warning signals: which come, when, in which ranks."""

import math
import signal
import time
from types import FrameType

from slurm.canary.finding import CHANGE, OK, Finding, some
from slurm.canary.report import Figures
from slurm.stop import WARNINGS

EARLY_S = 60.0
"""SLURM may send a warning so much earlier than asked."""


class Ear:
    """Hears the warning signals of this process; only the main thread may make one."""

    def __init__(self) -> None:
        self.heard: dict[str, float] = {}
        """When each signal came first, by name, in seconds since 1970."""
        for number in WARNINGS:
            signal.signal(number, self._hear)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WARNINGS)

    def wait(self, until: float) -> None:
        """Until a signal comes, or the time ``until`` (seconds since 1970)."""
        while not self.heard and time.time() < until:
            time.sleep(0.1)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard.setdefault(signal.Signals(number).name, time.time())


def judge(reports: list[Figures], asked_s: float, ranks: int, allowed_s: int) -> list[Finding]:
    """Whether the warning came in all ``ranks``, and how long before the end.

    Args:
        reports: ``heard`` of each rank, with ``ends``, the job's end by its time limit (seconds since 1970).
        asked_s: the lead that the job was to have.
        allowed_s: what was asked for beyond that, since the site is known to be so late.
    """
    silent = [f"rank {report['rank']} on {report['node']}" for report in reports if "SIGUSR2" not in report["heard"]]
    known = {report["rank"] for report in reports}
    silent += [f"rank {rank}" for rank in range(ranks) if rank not in known]
    if silent:
        return [
            Finding(
                "signal",
                CHANGE,
                f"no warning came in {some(silent)}",
                "ask the site whether srun hands --signal on (a prolog or a wrapper around srun may swallow it); until "
                "then a job that runs out of time loses what it did since its last checkpoint",
            )
        ]
    leads = [report["ends"] - report["heard"]["SIGUSR2"] for report in reports]
    where = f"all {ranks} ranks" if ranks > 1 else "the one rank"
    said = f"the warning comes in {where}, {min(leads):.0f} s before the end ({asked_s:.0f} s were asked for)"
    if min(leads) < asked_s - 5:
        late = allowed_s + math.ceil(asked_s - min(leads))
        mend = f"cluster.signal_late_s={late} has it asked for earlier"
        return [Finding("signal", CHANGE, said, mend, {"signal_late_s": late})]
    return [Finding("signal", OK, said)]

"""A job that asks to come back: whether it does, and how long the queue keeps it."""

from slurm.canary.finding import CHANGE, NOTE, OK, Finding
from slurm.canary.report import Figures

LONG_S = 600.0


def judge(reports: list[Figures], last_words: str) -> list[Finding]:
    """What the starts of the canary mean.

    Args:
        reports: ``restart`` and ``at`` (seconds since 1970) of each start; the first one asks to come back at once.
        last_words: the end of its log.
    """
    starts = {report["restart"]: report for report in reports}
    if 1 not in starts:
        return [
            Finding(
                "requeue",
                CHANGE,
                f"a job that asks to come back does not ({last_words or 'it says nothing'})",
                "ask the site to allow scontrol requeue to users; until then submit again when a job has ended, "
                "it goes on where it was",
            )
        ]
    waited = starts[1]["at"] - starts[0]["at"]
    said = f"a job that asks to come back starts again after {waited:.0f} s (on {starts[1]['node']})"
    if waited > LONG_S:
        return [Finding("requeue", NOTE, f"{said}: longer time limits (cluster.time_min) spend less of it")]
    return [Finding("requeue", OK, said)]

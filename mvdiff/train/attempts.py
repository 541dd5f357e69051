"""Starts of a run's job that came to nothing: a few in a row mean that the next one would too."""

from collections.abc import Iterable
from typing import Any

from mvdiff.errors import InputError

ALLOWED = 3
"""So many starts in a row may save nothing new."""


def refuse_futile(events: Iterable[dict[str, Any]]) -> None:
    """Raise an ``InputError`` with the reasons where the last ``ALLOWED`` starts before this one saved nothing new.

    ``events`` are those of every rank's log of one job, this start's own among them.
    """
    vain = _in_vain(events)
    if len(vain) < ALLOWED:
        return
    raise InputError(
        f"the last {len(vain)} starts saved nothing new ({'; '.join(vain)})",
        "see the log for what stops it, give it more time (cluster.time_min) or memory, and submit it again",
    )


def _in_vain(events: Iterable[dict[str, Any]]) -> list[str]:
    """How each start ended that came after the last progress, oldest first; the one that is under way is left out."""
    starts: list[str] = []
    reached = -1
    for event in sorted(events, key=lambda event: event["time"]):
        kind = event["kind"]
        if kind == "task started" and event.get("rank") == 0:
            starts.append("killed without a word")
        elif kind in ("started", "resumed"):
            step = event.get("step", 0)
            if step > reached:
                starts = starts[-1:]  # the one before was killed when it had saved and not said so yet
            reached = step
        elif kind == "checkpoint" and event.get("step", -1) > reached:
            reached = event["step"]
            starts = []
        elif kind == "task stopped" and starts:
            starts[-1] = f"stopped by {event['signal']} before it could save" if event.get("signal") else "stopped"
        elif kind == "task overdue" and starts:
            starts[-1] = event.get("reason", kind)
        elif kind == "task failed" and starts and starts[-1] == "killed without a word":
            starts[-1] = event.get("error", kind)
    under_way = 1
    return starts[:-under_way]

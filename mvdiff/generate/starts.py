"""Starts of a worker that came to nothing: a few in a row mean that the next one would too."""

from collections.abc import Iterable
from typing import Any

from mvdiff.errors import InputError

PROGRESSED = "progressed"
"""Event of a start that has written its first rows."""
ALLOWED = 3
"""So many starts in a row may end unasked before they have written a row."""


def refuse_futile(events: Iterable[dict[str, Any]]) -> None:
    """Raise an ``InputError`` where the last ``ALLOWED`` starts before this one ended unasked and wrote nothing.

    ``events`` are those of one worker's log, this start's own among them.
    """
    vain: list[str] = []
    for event in sorted(events, key=lambda event: event["time"]):
        if event["kind"] == "task started":
            vain.append("killed without a word")
        elif event["kind"] in (PROGRESSED, "done", "stopped", "task stopped"):
            vain = []
        elif event["kind"] in ("task failed", "task overdue") and vain:
            vain[-1] = str(event.get("error") or event.get("reason") or event["kind"])
    under_way = 1
    if len(vain) - under_way >= ALLOWED:
        raise InputError(
            f"the last {len(vain) - under_way} starts of this worker wrote nothing ({'; '.join(vain[:-under_way])})",
            "see its log for what stops it, then give the same command again",
        )

"""How long a run's steps and saves take, and so how long before its end a job must begin to stop."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mvdiff.events import read_events

MINUTE = 60.0
"""Seconds to spare: for the queue, and for a step or a save that takes longer than any before."""


class Pace:
    """The longest step and the longest save so far, in seconds."""

    def __init__(self) -> None:
        self.step = 0.0
        self.save = 0.0

    def stepped(self, seconds: float) -> None:
        """A step took so long."""
        self.step = max(self.step, seconds)

    def saved(self, seconds: float) -> None:
        """A save took so long, from the copy to its verification."""
        self.save = max(self.save, seconds)

    def needed(self, spare: float = MINUTE) -> float:
        """Seconds from the wish to stop until all is safe.

        The step in hand, a save that is under way already, the last one, and ``spare``.
        """
        return self.step + 2 * self.save + spare


def measured(events: Iterable[Path]) -> Pace | None:
    """The pace of the jobs whose event logs lie in the folders ``events``; None where none has saved yet."""
    pace = Pace()
    for folder in events:
        for event in read_events(folder):
            with suppress(KeyError, TypeError):  # a damaged line costs itself
                if event["kind"] == "checkpoint":
                    pace.saved(event["seconds"])
                elif event["kind"] == "step":
                    pace.stepped(event["longest"])
    return pace if pace.save else None

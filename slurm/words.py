"""Words that the processes of a job leave for each other, and for whoever looks after it, as files in its logs."""

from dataclasses import dataclass
from pathlib import Path

BEGAN = "began"
"""A process of this start stands and runs the job's own code."""
STOPPED = "stopped"
"""The job was asked to stop, its state is safe, and it wants to come back."""
REQUEUE_ASKED = "requeue-asked"
"""Rank 0 has done with the queue what there was to do: the others may leave."""
GAVE_UP = "gave-up"
"""A process ended in a way that another start would repeat; the file holds why."""
CANCELLED = "cancelled"
"""Its owner has cancelled the job, or the array of that id; said of the first start for all. A local one ends by it, of
others it is known when the queue has forgotten them."""
UNASKED = "unasked"
"""This start ended although nobody had asked for it."""


@dataclass(frozen=True)
class Words:
    """The words of one start of one job: ``WORD-JOB-RESTART``."""

    folder: Path
    job_id: str
    """As the queue prints it; ARRAY_INDEX for a member of an array."""
    restart: int
    """How often the job was started before."""

    def say(self, word: str, why: str = "") -> None:
        """Leave ``word``, which stays."""
        self._path(word, self.restart).write_text(why, encoding="utf-8")

    def said(self, word: str, restart: int | None = None) -> bool:
        """Whether ``word`` was left by this start of the job, or by the one numbered ``restart``."""
        return self._path(word, self.restart if restart is None else restart).exists()

    def starts_that_said(self, word: str) -> list[int]:
        """The numbers of the job's starts up to this one that left ``word``."""
        return [restart for restart in range(self.restart + 1) if self.said(word, restart)]

    def _path(self, word: str, restart: int) -> Path:
        return self.folder / f"{word}-{self.job_id}-{restart}"

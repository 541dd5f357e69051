"""What rank 0 does about checkpoints: copy, write behind training, tell how it went."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mvdiff.events import EventLog
from mvdiff.train.checkpoint import CheckpointStore, Keep, SaveFailed, checkpoint_hash
from mvdiff.train.history import History
from mvdiff.train.pace import Pace
from mvdiff.train.record import Record
from mvdiff.train.saver import Saver
from mvdiff.train.settings import TrainSettings
from mvdiff.train.state import TrainingState


@dataclass(frozen=True)
class _Outcome:
    step: int
    problem: str | None
    path: Path | None
    seconds: float


class Archive:
    """The checkpoints of a run while it trains; training waits for a copy in memory only.

    ``saved`` is the newest step that is safe on disk. One that cannot be saved is told to ``log``, and training goes
    on: the checkpoints before it are untouched.
    """

    def __init__(
        self,
        state: TrainingState,
        history: History,
        store: CheckpointStore,
        record: Record,
        settings: TrainSettings,
        events: EventLog,
        log: Callable[[str], None],
        pace: Pace,
        saved: int | None,
    ) -> None:
        self.saved = saved
        self._state, self._history, self._store = state, history, store
        self._record, self._settings = record, settings
        self._events, self._log, self._pace = events, log, pace
        self._snapshot = state.snapshot()
        self._saver: Saver[_Outcome] = Saver()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A save under way is finished and told of, whatever ends the run."""
        with self._saver:
            self._tell(self._settle(wait=True))

    def begin(self, loss: float | None) -> None:
        """Save the state as it is, behind training; a save under way is waited for first.

        ``loss`` is that of the last step.
        """
        start = time.monotonic()
        self._tell(self._settle(wait=True))
        step, ranking = self._state.step, self._history.ranking()
        self._snapshot.take(step, self._history.written())
        self._events.write("saving", step=step, stalled=round(time.monotonic() - start, 3))
        self._saver.begin(lambda: self._save(step, ranking, loss, start))

    def safe(self) -> Path | None:
        """The newest checkpoint that is safe on disk, one under way included; None where there is none."""
        self._tell(self._settle(wait=True))
        return None if self.saved is None else self._store.path(self.saved)

    def look(self) -> None:
        """Take note of a save that has ended since."""
        self._tell(self._settle(wait=False))

    def secure(self, loss: float | None) -> str | None:
        """Return when the state as it is is safe on disk; the problem in one line where it cannot be."""
        self._tell(self._settle(wait=True))
        if self.saved == self._state.step:
            return None
        self.begin(loss)
        return self._settle(wait=True)

    def _tell(self, problem: str | None) -> None:
        if problem:
            self._log(f"{problem}; going on, the next try is at the next checkpoint")

    def _save(self, step: int, ranking: list[int], loss: float | None, start: float) -> _Outcome:
        """In the saver's thread."""
        settings = self._settings
        keep = Keep(settings.keep_last, settings.keep_every, settings.keep_best, ranking)
        path = problem = None
        try:
            path = self._store.save(
                step,
                lambda folder: self._snapshot.write(folder, self._record, loss, self._store.boundary),
                keep,
            )
        except SaveFailed as error:
            problem = str(error)
        return _Outcome(step, problem, path, time.monotonic() - start)

    def _settle(self, wait: bool) -> str | None:
        """Write down how the save ended that was under way, if one was; its problem."""
        outcome = self._saver.outcome(wait)
        if outcome is None:
            return None
        if outcome.path is None:
            self._events.write("save failed", step=outcome.step, why=outcome.problem)
            return outcome.problem
        self.saved = outcome.step
        self._pace.saved(outcome.seconds)
        self._events.write(
            "checkpoint",
            step=outcome.step,
            name=outcome.path.name,
            hash=checkpoint_hash(outcome.path),
            seconds=round(outcome.seconds, 3),
        )
        return None

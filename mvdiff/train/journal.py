"""The journal of training: a plain line every few seconds, and the loss of every step in the event log."""

import math
import time
from collections.abc import Callable
from pathlib import Path

from mvdiff.events import EventLog, read_events
from mvdiff.progress import duration
from mvdiff.train.board import Board
from mvdiff.train.settings import TrainSettings


class Journal:
    """What rank 0 tells of the steps it has seen; ``flush`` before anything that must not run ahead of the log."""

    def __init__(
        self,
        events: EventLog,
        say: Callable[[str], None],
        settings: TrainSettings,
        samples: int,
        board: Board,
        time_left: Callable[[], float],
    ) -> None:
        """``samples`` are those of an epoch; ``time_left`` tells the seconds until the job's time limit."""
        self.events, self.say, self.board = events, say, board
        self._steps, self._batch, self._own = settings.last_step, settings.batch, settings.own_batch
        self._samples, self._every, self._time_left = samples, settings.log_every, time_left
        self._longest = 0.0
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._waited = self._spent = 0.0
        self._since = self._start = time.monotonic()
        self._taken = 0

    def start(self) -> None:
        """Rates count from here, not from the start-up before it."""
        self._since = self._start = time.monotonic()

    def step(self, step: int, loss: float, norm: float, rate: float, waited: float, seconds: float) -> None:
        """Optimizer step number ``step`` (from 0) is done, in ``seconds``.

        ``loss`` and gradient ``norm`` of the global batch, learning ``rate``, ``waited``: seconds for data.
        """
        self._losses.append(loss)
        self._norms.append(norm)
        self._waited += waited
        self._spent += seconds
        self._longest = max(self._longest, seconds)
        self._last, self._rate = step, rate
        self._taken += 1
        if time.monotonic() - self._since >= self._every:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered since the last line: one line for people, one event with every loss."""
        if not self._losses:
            return
        count, spent = len(self._losses), max(self._spent, 1e-9)
        speed, share = count * self._batch / spent, self._waited / spent
        done = self._last + 1
        loss = sum(self._losses) / count
        self.say(
            f"step {done}/{self._steps}  epoch {done * self._own / self._samples:.2f}  loss {loss:.4f}  "
            f"lr {self._rate:.1e}  {speed:.1f} samples/s  data wait {share:.0%}  ETA {self._eta()}"
        )
        self.events.write(
            "step",
            first=done - count,
            last=self._last,
            of=self._steps,
            losses=self._losses,
            gradient_norm=max(self._norms),
            learning_rate=self._rate,
            samples_per_second=round(speed, 3),
            data_wait=round(share, 4),
            longest=round(self._longest, 4),
        )
        for number, (one, norm) in enumerate(zip(self._losses, self._norms, strict=True)):
            self.board.step(done - count + number + 1, one, norm, self._rate, speed, share)
        self._losses, self._norms = [], []
        self._waited = self._spent = self._longest = 0.0
        self._since = time.monotonic()

    def _eta(self) -> str:
        """Time until the last step, validations and saves included, beside what the job has left of its limit."""
        needed = (self._steps - self._last - 1) * (time.monotonic() - self._start) / self._taken
        left = self._time_left()
        if math.isinf(left):
            return duration(needed)
        comes_back = ", and comes back" if needed > left > 60 else ""
        return f"{duration(needed)} (job ends in {duration(max(left, 0))}{comes_back})"


def read_losses(events: Path) -> dict[int, float]:
    """{step: loss of its global batch} from the event logs in the folder ``events``.

    Steps that were redone after a kill appear once, as they were last computed.
    """
    losses = {}
    for event in sorted((e for e in read_events(events) if e["kind"] == "step"), key=lambda e: e["time"]):
        for number, loss in enumerate(event["losses"]):
            losses[event["first"] + number] = loss
    return losses

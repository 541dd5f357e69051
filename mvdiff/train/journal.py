"""The journal of training: a plain line every few seconds, and the loss of every step in the event log."""

import time
from collections.abc import Callable
from pathlib import Path

from mvdiff.events import EventLog, read_events
from mvdiff.progress import duration


class Journal:
    """What rank 0 tells of the steps it has seen; ``flush`` before anything that must not run ahead of the log."""

    def __init__(
        self, events: EventLog, say: Callable[[str], None], steps: int, batch: int, samples: int, every: float
    ) -> None:
        self.events, self.say = events, say
        self._steps, self._batch, self._samples, self._every = steps, batch, samples, every
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._waited = 0.0
        self._since = self._start = time.monotonic()
        self._taken = 0

    def start(self) -> None:
        """Rates count from here, not from the start-up before it."""
        self._since = self._start = time.monotonic()

    def step(self, step: int, loss: float, norm: float, rate: float, waited: float) -> None:
        """Optimizer step number ``step`` (from 0) is done.

        ``loss`` and gradient ``norm`` of the global batch, learning ``rate``, ``waited``: seconds for data.
        """
        self._losses.append(loss)
        self._norms.append(norm)
        self._waited += waited
        self._last, self._rate = step, rate
        self._taken += 1
        if time.monotonic() - self._since >= self._every:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered since the last line: one line for people, one event with every loss."""
        if not self._losses:
            return
        now = time.monotonic()
        count, seconds = len(self._losses), max(now - self._since, 1e-9)
        speed, share = count * self._batch / seconds, self._waited / seconds
        done = self._last + 1
        left = (self._steps - done) * (now - self._start) / self._taken
        loss = sum(self._losses) / count
        self.say(
            f"step {done}/{self._steps}  epoch {done * self._batch / self._samples:.2f}  loss {loss:.4f}  "
            f"lr {self._rate:.1e}  {speed:.1f} samples/s  data wait {share:.0%}  ETA {duration(left)}"
        )
        self.events.write(
            "step",
            first=done - count,
            last=self._last,
            losses=self._losses,
            gradient_norm=max(self._norms),
            learning_rate=self._rate,
            samples_per_second=round(speed, 3),
            data_wait=round(share, 4),
        )
        self._losses, self._norms = [], []
        self._waited, self._since = 0.0, now


def read_losses(events: Path) -> dict[int, float]:
    """{step: loss of its global batch} from the event logs in the folder ``events``.

    Steps that were redone after a kill appear once, as they were last computed.
    """
    losses = {}
    for event in sorted((e for e in read_events(events) if e["kind"] == "step"), key=lambda e: e["time"]):
        for number, loss in enumerate(event["losses"]):
            losses[event["first"] + number] = loss
    return losses

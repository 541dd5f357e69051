"""How far a run's training is, from its event logs alone. Imports no torch."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

_PACE = 32
"""Log lines whose pace is taken for that of the rest."""


@dataclass
class Status:
    """What the newest events say."""

    step: int = 0
    """Optimizer steps taken."""
    steps: int = 0
    """Of so many; 0 before the first log line."""
    loss: float | None = None
    """Mean over the last log line's steps."""
    samples_per_second: float | None = None
    data_wait: float | None = None
    """Share of the steps' time spent waiting for samples."""
    saved: int | None = None
    """Step of the newest checkpoint."""
    starts: int = 0
    """How often the job has started."""
    validation: str | None = None
    """What the newest validation found, in one line."""
    remarks: list[str] = field(default_factory=list)
    """What is wrong with it."""
    end: str | None = None
    """Why training is over; None while it is not."""
    error: str | None = None
    """Why the last start failed, if it did."""
    eta_seconds: float | None = None
    """Until the last step, at the pace of this start's newest steps, validations and saves between them included."""
    pace: list[tuple[float, int]] = field(default_factory=list, repr=False)
    """When the newest start's log lines were written, and the step that each ends with."""

    def lines(self) -> list[str]:
        """For people."""
        told = []
        if self.steps:
            told.append(
                f"step {self.step}/{self.steps}  loss {self.loss:.4f}  {self.samples_per_second:.1f} samples/s  "
                f"data wait {self.data_wait:.0%}"
            )
        if self.saved is not None:
            told.append(f"saved: step {self.saved}; started {self.starts} time{'s' * (self.starts != 1)}")
        told += [line for line in (self.validation, *self.remarks) if line]
        if self.error:
            told.append(f"failed: {self.error}")
        if self.end:
            told.append(f"done: {self.end}")
        return told


def status(events: Iterable[dict[str, Any]]) -> Status:
    """What ``events`` of every rank's log of a run's training jobs add up to."""
    now = Status()
    for event in sorted(events, key=lambda event: event["time"]):
        with suppress(KeyError, TypeError, ZeroDivisionError):  # a damaged line costs itself
            _take_in(now, event)
    return now


def _take_in(now: Status, event: dict[str, Any]) -> None:
    kind = event["kind"]
    if kind == "task started" and event["rank"] == 0:
        now.starts += 1
        now.error = None
    elif kind in ("started", "resumed"):
        now.pace = []
        now.step = now.saved = event.get("step", 0)
    elif kind == "step":
        loss = sum(event["losses"]) / len(event["losses"])
        now.step, now.steps, now.loss = event["last"] + 1, event["of"], loss
        now.samples_per_second, now.data_wait = event["samples_per_second"], event["data_wait"]
        now.pace.append((event["time"], now.step))
        (began, first), (newest, last) = now.pace[max(0, len(now.pace) - _PACE)], now.pace[-1]
        now.eta_seconds = (now.steps - now.step) * (newest - began) / (last - first) if last > first else None
    elif kind == "checkpoint":
        now.saved = event["step"]
    elif kind == "validated":
        now.validation, now.remarks = event["line"], event["remarks"]
    elif kind == "done":
        now.end = event["why"]
    elif kind == "task failed" and now.error is None:
        now.error = event["error"]

"""What became of samples and slices: append-only JSON lines, one file an incarnation of a worker.

The ledger explains; the result shards decide. A published slice whose line is missing (its worker died between the two)
is published all the same.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mvdiff.events import EventLog, read_events
from mvdiff.generate.owner import Owner
from mvdiff.generate.suspects import Failure

FOLDER = "ledger"
_FIELDS = {
    "began": {"worker", "host"},
    "published": {"worker", "host", "slice", "attempt", "rows", "missing"},
    "failed": {"worker", "host", "slice", "attempt", "sample_id", "reason"},
    "gave_up": {"worker", "host", "reason"},
}
"""What a line of each kind must have; a damaged one is passed over."""


class Ledger:
    """Lines of one worker about the result set in ``folder``."""

    def __init__(self, folder: Path, owner: Owner) -> None:
        self._log = EventLog(folder / FOLDER / f"{owner.worker}.{owner.nonce}.jsonl")
        self._worker, self._host = owner.worker, owner.host

    def began(self) -> None:
        """The worker is ready to sample."""
        self._write("began")

    def published(self, name: str, attempt: int, rows: int, missing: list[str], seconds: float) -> None:
        """The slice ``name`` is there with ``rows`` samples; those called ``missing`` had to be left out."""
        self._write("published", slice=name, attempt=attempt, rows=rows, missing=missing, seconds=round(seconds, 3))

    def failed(self, name: str, attempt: int, sample_id: str, failure: Failure) -> None:
        """The sample could not be read or sampled here; it is quarantined if the slice is published without it."""
        self._write("failed", slice=name, attempt=attempt, sample_id=sample_id, **asdict(failure))

    def halved(self, length: int, reason: str) -> None:
        """Memory ran out: the worker goes on with ``length`` samples a call."""
        self._write("halved", length=length, reason=reason)

    def gave_up(self, reason: str, name: str | None = None, attempt: int | None = None) -> None:
        """The worker stopped, at a slice or before its first one, because what failed was its own or its node's."""
        self._write("gave_up", slice=name, attempt=attempt, reason=reason)

    def _write(self, kind: str, **fields: Any) -> None:
        self._log.write(kind, worker=self._worker, host=self._host, **fields)


def read_ledger(folder: Path) -> Iterator[dict[str, Any]]:
    """Every line of every worker about the result set in ``folder``, in no order between workers."""
    for line in read_events(folder / FOLDER):
        if _FIELDS.get(line["kind"], set()) <= line.keys():
            yield line

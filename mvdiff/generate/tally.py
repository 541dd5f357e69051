"""How far a result set is, in a glance: from the headers of its plan, the names of its files, and the few lines of its
ledgers that name a sample. `status.status` reads all of it, and tells worker by worker."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mvdiff.errors import counted
from mvdiff.generate.ledger import FOLDER as LEDGER
from mvdiff.generate.plan import SLICE_FILE, segment_path

_LACKING = b'"missing": ["'
"""In the ledger's line of a slice that was published without some of its samples."""


@dataclass(frozen=True)
class Tally:
    """Counts of samples: ``samples = done + quarantined + left``."""

    samples: int
    done: int
    quarantined: int
    """Left out of a published slice, and not planned again."""

    @property
    def left(self) -> int:
        return self.samples - self.done - self.quarantined

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.left == 0

    def line(self) -> str:
        """For people."""
        share = self.done / self.samples if self.samples else 1.0
        more = f", {self.quarantined} quarantined" if self.quarantined else ""
        return f"{self.done} of {counted(self.samples, 'sample')} done ({share:.0%}){more}"


def tally(folder: Path) -> Tally | None:
    """Count what the result set ``folder`` holds; None where its plan cannot be read."""
    planned, again = 0, 0
    sizes: list[tuple[int, int]] = []
    while (path := segment_path(folder, len(sizes))).exists():
        try:
            header = json.loads(path.read_bytes())
            sizes.append((int(header["samples"]), int(header["slice"])))
            planned, again = planned + sizes[-1][0], again + int(header["retried"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
    if not sizes:
        return None
    published = set()
    open_ = planned
    for entry in os.scandir(folder):
        match = SLICE_FILE.fullmatch(entry.name)
        if match:
            segment, number = map(int, match[1].split("-"))
            if segment < len(sizes):
                samples, size = sizes[segment]
                open_ -= max(0, min(size, samples - number * size))
                published.add(match[1])
    quarantined = max(0, _left_out(folder / LEDGER, published) - again)
    return Tally(planned - again, planned - again - open_ - quarantined, quarantined)


def _left_out(ledgers: Path, published: set[str]) -> int:
    """How many samples the published slices lack, by the ledgers."""
    lacking: dict[str, int] = {}
    if ledgers.is_dir():
        for entry in os.scandir(ledgers):
            content = Path(entry.path).read_bytes() if entry.name.endswith(".jsonl") else b""
            for line in content.split(b"\n") if _LACKING in content else ():
                with suppress(ValueError, KeyError, TypeError):
                    if _LACKING in line and (event := json.loads(line))["slice"] in published:
                        lacking[event["slice"]] = len(event["missing"])
    return sum(lacking.values())

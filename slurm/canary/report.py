"""The files in which canaries tell what they saw: one writer a file, whole or not there."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Figures = dict[str, Any]


@dataclass(frozen=True)
class Reports:
    """The reports of one run of the canaries: ``PART-WHO.json`` in ``folder``."""

    folder: Path

    def write(self, part: str, who: int | str, figures: Figures) -> None:
        """Tell ``figures``; what the same writer told before is replaced."""
        temporary = self.folder / f".{part}-{who}.part"
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(figures, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.folder / f"{part}-{who}.json")

    def read(self, part: str) -> list[Figures]:
        """All reports of a part, by writer."""
        # a listing makes NFS look again, where a name once not found may stay so for a while
        names = sorted(name for name in os.listdir(self.folder) if name.startswith(f"{part}-"))  # noqa: PTH208
        found = [json.loads((self.folder / name).read_text(encoding="utf-8")) for name in names]
        return sorted(found, key=lambda figures: figures.get("rank", 0))

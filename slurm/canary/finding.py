"""What a canary's figures mean for the person who asked."""

from dataclasses import dataclass, field
from typing import Any

OK, NOTE, CHANGE = "ok", "note", "change"


@dataclass(frozen=True)
class Finding:
    """One line of the outcome."""

    part: str
    level: str
    """ok; note: good to know, nothing to do; change: jobs will suffer until it is changed."""
    what: str
    mend: str = ""
    """What to change, with the key or the command; empty unless the level is change."""
    learned: dict[str, Any] = field(default_factory=dict)
    """Keys of the site, with the values that they should have after this."""

    def __str__(self) -> str:
        return f"{self.what}: {self.mend}" if self.mend else self.what


def some(names: list[str], most: int = 4) -> str:
    """Names for a line, not all of many."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")

"""What was asked of a result set: where its checkpoint and inputs lay. No part of what the set is."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from mvdiff.durable import write_json
from mvdiff.errors import InputError

ASKED_FILE = "asked.json"


@dataclass(frozen=True)
class Asked:
    """How the results of a set can be made again, as its newest ``mvdiff generate`` left it in ``asked.json``."""

    checkpoint: str
    """Folder of the checkpoint, absolute."""
    data: list[str]
    """Every ``data.path`` that was ever asked for, absolute, the newest last."""
    unreadable: dict[str, str]
    """Shards of the newest one that could not be read and were left out, each with the reason."""

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """What was asked of the result set ``folder``; None where nothing was written."""
        path = folder / ASKED_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(str(content["checkpoint"]), list(content["data"]), dict(content["unreadable"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read ({error})", "delete it; mvdiff generate writes it anew") from None

    @classmethod
    def remember(cls, folder: Path, checkpoint: Path, data: Path, unreadable: dict[Path, str]) -> Self:
        """Write down that ``data`` was asked for, with ``checkpoint``; the set's other inputs stay in the list."""
        before = cls.load(folder)
        others = [path for path in before.data if path != str(data)] if before else []
        asked = cls(str(checkpoint), [*others, str(data)], {str(path): why for path, why in unreadable.items()})
        if asked != before:
            write_json(folder / ASKED_FILE, asdict(asked))
        else:
            # its time tells which set was asked for last
            (folder / ASKED_FILE).touch()
        return asked

"""Samples that failed on one host and wait for another one's verdict.

A file ``suspects/SLICE.WORKER.NONCE.json`` says which samples of a slice failed in one worker, and on which host. Until
a worker on another host has tried them too nobody can tell a bad sample from a bad node. Each file has one writer.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mvdiff.durable import write_json
from mvdiff.generate.owner import Owner

FOLDER = "suspects"


@dataclass(frozen=True)
class Failure:
    """Why a sample could not be made."""

    stage: Literal["input", "sampler"]
    reason: str
    traceback: str = ""


class Suspects:
    """The suspects of the result set in ``folder``, as the worker ``owner`` finds and adds them."""

    def __init__(self, folder: Path, owner: Owner) -> None:
        self._folder, self._owner = folder / FOLDER, owner

    def slices(self) -> set[str]:
        """Names of the slices that have any."""
        try:
            return {path.name.partition(".")[0] for path in self._folder.iterdir()}
        except FileNotFoundError:
            return set()

    def hosts(self, name: str) -> dict[str, set[str]]:
        """By host, the ids of the samples of the slice ``name`` that failed there."""
        found: dict[str, set[str]] = {}
        for path in self._folder.glob(f"{name}.*.json"):
            content = _read(path)
            if content:
                found.setdefault(str(content["host"]), set()).update(content["samples"])
        return found

    def add(self, name: str, failures: Mapping[str, Failure]) -> None:
        """Say that these samples of the slice ``name`` failed here, beside those that did so before."""
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{name}.{self._owner.worker}.{self._owner.nonce}.json"
        samples = {sample_id: asdict(failure) for sample_id, failure in failures.items()}
        write_json(path, {"host": self._owner.host, "samples": _read(path).get("samples", {}) | samples})

    def clear(self, name: str) -> None:
        """Forget them: the slice ``name`` is published."""
        for path in self._folder.glob(f"{name}.*.json"):
            path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    """``host`` and ``samples`` of a file; empty for one that is not there or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    whole = isinstance(content, dict) and "host" in content and isinstance(content.get("samples"), dict)
    return content if whole else {}

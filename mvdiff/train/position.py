"""Where a run stands: the steps taken, and what validation has found on the way. Imports no torch."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvdiff.durable import write_json
from mvdiff.train.checkpoint import TRAINING, CheckpointStore
from mvdiff.train.history import SCORES, History, Validated
from mvdiff.train.settings import TrainSettings

FILE = f"{TRAINING}/position.json"

_SCORES = re.compile(r"step-(\d{8,})\.json")


@dataclass
class Position:
    """A place in a run, the same for every rank."""

    step: int
    """Optimizer steps taken."""
    history: History

    def validation_is_due(self, settings: TrainSettings) -> bool:
        """Whether the model is to be tried before the next step, or before the end."""
        every, newest = settings.validation.every, self.history.newest
        due = every and (self.step % every == 0 or self.step >= settings.last_step)
        return bool(due) and (newest is None or newest.step < self.step)

    def ended(self, settings: TrainSettings) -> str | None:
        """Why there is nothing left to train, in words; None where there is."""
        patience, best = settings.validation.patience, self.history.best()
        if best is not None and self.history.exhausted(patience):
            return f"no better foreground PSNR in {patience} validations since step {best.step}"
        if self.step >= settings.last_step:
            return f"all {settings.last_step} steps are done"
        return None


def write_position(checkpoint: Path, step: int, history: list[dict[str, Any]]) -> None:
    """Note in a checkpoint folder how many steps were taken, and what validation had found (``History.written``)."""
    write_json(checkpoint / FILE, {"step": step, "validations": history})


def read_step(checkpoint: Path) -> int:
    """How many steps had been taken."""
    return int(json.loads((checkpoint / FILE).read_text(encoding="utf-8"))["step"])


def write_scores(folder: Path, step: int, scores: dict[str, float]) -> None:
    """Publish what the validation at ``step`` has found as ``folder/step-00000050.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    history = History()
    history.record(step, scores)
    write_json(folder / f"step-{step:08d}.json", history.written())


def read_history(checkpoint: Path, folder: Path) -> History:
    """Everything that validation has found up to ``checkpoint``, by what it holds and by ``folder``.

    A validation after the checkpoint's own step is in ``folder`` alone. A file there that cannot be read is passed
    over: at worst its validation is made again.
    """
    content = json.loads((checkpoint / FILE).read_text(encoding="utf-8"))
    history = History.read(content["validations"])
    known = {one.step for one in history.entries}
    entries = list(history.entries)
    for path in sorted(folder.glob("step-*.json")):
        name = _SCORES.fullmatch(path.name)
        if name and int(name[1]) <= content["step"] and int(name[1]) not in known:
            entries += _found(path, int(name[1]))
    return History(sorted(entries, key=lambda one: one.step))


def _found(path: Path, step: int) -> list[Validated]:
    """The one validation that ``path`` holds, if it is as ``write_scores`` left it."""
    try:
        [one] = History.read(json.loads(path.read_text(encoding="utf-8"))).entries
        whole = one.step == step and set(one.scores) == set(SCORES) and all(map(math.isfinite, _known(one)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return [one] if whole else []


def _known(one: Validated) -> list[float]:
    return [value for value in one.scores.values() if not math.isnan(value)]


def best_checkpoint(store: CheckpointStore, validations: Path) -> Path | None:
    """The checkpoint with the best foreground PSNR in validation, of those that there are.

    None without validation, and while only the model that training began with was validated.
    """
    steps = store.steps()
    if not steps:
        return None
    try:
        history = read_history(store.path(steps[-1]), validations)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # damaged: whoever takes that checkpoint is told
    if history.newest is None or history.newest.step == 0 < steps[-1]:
        return None
    return next((store.path(step) for step in history.ranking() if step in steps), None)

"""Where a run stands: the steps taken, and what validation has found on the way. Imports no torch."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from mvdiff.durable import write_json
from mvdiff.train.checkpoint import TRAINING, CheckpointStore
from mvdiff.train.history import History
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


def write_step(checkpoint: Path, step: int) -> None:
    """Note in a checkpoint folder how many steps were taken."""
    write_json(checkpoint / FILE, {"step": step})


def read_step(checkpoint: Path) -> int:
    """What ``write_step`` noted."""
    return int(json.loads((checkpoint / FILE).read_text(encoding="utf-8"))["step"])


def write_scores(folder: Path, step: int, scores: dict[str, float]) -> None:
    """Publish what the validation at ``step`` has found as ``folder/step-00000050.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    history = History()
    history.record(step, scores)
    write_json(folder / f"step-{step:08d}.json", history.written())


def read_history(folder: Path, until: int) -> History:
    """Everything that validation has found up to the step ``until``, as ``write_scores`` left it in ``folder``.

    A file that cannot be read is passed over: its validation is made again, or is missed by nobody.
    """
    history = History()
    for path in sorted(folder.glob("step-*.json")):
        if (name := _SCORES.fullmatch(path.name)) and int(name[1]) <= until:
            try:
                found = History.read(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, KeyError, TypeError):
                continue
            for one in found.entries:
                history.record(one.step, one.scores)
    return history


def best_checkpoint(store: CheckpointStore, validations: Path) -> Path | None:
    """The checkpoint with the best foreground PSNR in validation, of those that there are; None without validation."""
    steps = store.steps()
    ranking = read_history(validations, max(steps, default=0)).ranking()
    return next((store.path(step) for step in ranking if step in steps), None)

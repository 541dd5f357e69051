"""Loss curves of the small model on procedural mice, kept from a run before: a change that moves them is a decision.

``python -m tests.mvdiff.train.test_golden_losses`` writes them anew.
"""

import json
import tempfile
from pathlib import Path

import pytest

from mvdiff.model.settings import ModelSettings
from mvdiff.mouse.colony import Colony, synthesise
from mvdiff.train.journal import read_losses
from mvdiff.train.settings import TrainSettings
from tests.mvdiff.model.conftest import tiny_values
from tests.mvdiff.train.conftest import Run, training_values

GOLDEN = Path(__file__).parent / "golden" / "losses.json"
STEPS = 30
TOLERANCE = 1e-4
"""Relative, a step. With other vector instructions the curves move by 2e-6; a changed draw, weight or learning rate
moves them by several per cent."""

RECIPES = {
    "plain": {},
    "all a recipe can ask for": {
        "prior_share": 0.25, "min_snr": 5.0, "freeze_encoder_epochs": 1.0,
        "augment": {"flip": 0.5, "colour": 0.1, "crop": 0.95},
    },
}  # fmt: skip


def curves(folder: Path) -> dict[str, list[float]]:
    """Losses of 30 steps by recipe."""
    synthesise(folder / "shards", Colony(36, 3, "any", 64, "mouse", "lz4", 12, 64))
    values = tiny_values() | {"size": 64, "condition_size": 64}
    values["new"] |= {"patch": 8, "latent_channels": 8, "widths": [16, 32], "head_width": 16, "context_width": 16}
    values["new"] |= {"condition_grid": 4}
    found = {}
    for name, recipe in RECIPES.items():
        run = Run(folder / name, folder / "shards" / "train", ModelSettings.read(values))
        run.prior = folder / "shards" / "heldout" if "prior_share" in recipe else None
        known = {"steps": STEPS, "batch": 8, "learning_rate": 3e-3, "warmup_steps": 5}
        run.train(TrainSettings.read(training_values() | known | recipe))
        found[name] = list(read_losses(run.events).values())
    return found


def test_the_curves_are_what_they_were(tmp_path):
    losses, golden = curves(tmp_path), json.loads(GOLDEN.read_text())
    assert list(losses) == list(golden)
    for name, curve in losses.items():
        assert len(curve) == STEPS and curve == pytest.approx(golden[name], rel=TOLERANCE), name
    plain = losses["plain"]
    assert sum(plain[-5:]) < 0.7 * sum(plain[:5]), "it does not learn"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(curves(Path(name)), indent=1) + "\n")

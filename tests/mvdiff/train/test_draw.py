from dataclasses import replace

import pytest
import torch

from mvdiff.train.augment import Variation
from mvdiff.train.draw import Chance
from mvdiff.train.order import Place
from mvdiff.train.settings import AugmentSettings

NOT_VARIED = AugmentSettings(flip=0.0, colour=0.0, crop=1.0)
VARIED = AugmentSettings(flip=0.25, colour=0.1, crop=0.8)
CHANCE = Chance(
    seed=0,
    timesteps=1000,
    condition_drop=0.25,
    random_reference=True,
    augment=VARIED,
    noise_shapes={"views": (6, 4, 8, 8), "reference": (4, 8, 8)},
)


def at(epoch, position, source="training"):
    return Place(source, epoch, position, row=0)


def test_a_draw_depends_on_nothing_but_its_place_and_sample():
    first = CHANCE.draw(at(3, 17), "mouse")
    torch.manual_seed(1)
    CHANCE.draw(at(3, 18), "rat")
    again = replace(CHANCE).draw(Place("training", 3, 17, row=8), "mouse")
    assert torch.equal(first.noise["views"], again.noise["views"])
    assert replace(first, noise=None) == replace(again, noise=None)


@pytest.mark.parametrize("what", [(0, 4, 17, "mouse"), (0, 3, 16, "mouse"), (0, 3, 17, "rat"), (1, 3, 17, "mouse")])
def test_each_of_seed_epoch_position_and_sample_matters(what):
    seed, epoch, position, name = what
    first, other = CHANCE.draw(at(3, 17), "mouse"), replace(CHANCE, seed=seed).draw(at(epoch, position), name)
    assert not torch.equal(first.noise["views"], other.noise["views"])
    assert first.timestep != other.timestep and first.variation != other.variation


def test_the_two_data_sets_share_no_stream():
    first, other = CHANCE.draw(at(3, 17), "mouse"), CHANCE.draw(at(3, 17, "prior"), "mouse")
    assert not torch.equal(first.noise["views"], other.noise["views"])
    assert first.timestep != other.timestep
    assert first.variation.colour != other.variation.colour and first.variation.window != other.variation.window


def test_draws_have_their_distributions():
    draws = [CHANCE.draw(at(0, position), "mouse") for position in range(3000)]
    timesteps = torch.tensor([draw.timestep for draw in draws]).double()
    assert timesteps.min() >= 0 and timesteps.max() < 1000
    assert timesteps.mean() == pytest.approx(499.5, abs=20) and timesteps.std() == pytest.approx(288.7, abs=15)
    assert sum(draw.dropped for draw in draws) / 3000 == pytest.approx(0.25, abs=0.03)
    counts = torch.bincount(torch.tensor([draw.reference for draw in draws]), minlength=6)
    assert len(counts) == 6 and counts.min() > 400
    noise = torch.stack([draw.noise["views"] for draw in draws[:100]])
    assert noise.mean().item() == pytest.approx(0, abs=0.01) and noise.std().item() == pytest.approx(1, abs=0.01)


def test_variations_have_their_distributions():
    found = [CHANCE.draw(at(0, position), "mouse").variation for position in range(2000)]
    assert sum(one.flip for one in found) / 2000 == pytest.approx(0.25, abs=0.03)
    for what, middle in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0)):
        values = torch.tensor([getattr(one.colour, what) for one in found]).double() - middle
        assert values.abs().max() <= 0.1 and values.mean() == pytest.approx(0, abs=0.01)
        assert values.std() == pytest.approx(0.2 / 12**0.5, abs=0.003)
    side, left, top = (torch.tensor([getattr(one.window, what) for one in found]) for what in ("side", "left", "top"))
    assert side.min() >= 0.8 and side.max() <= 1 and side.mean() == pytest.approx(0.9, abs=0.01)
    for start in (left, top):
        assert start.min() >= 0 and (start + side).max() <= 1 + 1e-6
        assert (start / (1 - side)).mean() == pytest.approx(0.5, abs=0.02)
    drawn = torch.stack([side, left / (1 - side), top / (1 - side), *(
        torch.tensor([getattr(one.colour, what) for one in found])
        for what in ("brightness", "contrast", "saturation", "hue")
    )])  # fmt: skip
    assert (torch.corrcoef(drawn) - torch.eye(7)).abs().max() < 0.1


def test_a_setting_changes_its_own_draw_only():
    fixed = replace(CHANCE, random_reference=False, condition_drop=0.0, augment=NOT_VARIED)
    for position in range(50):
        first, other = CHANCE.draw(at(0, position), "mouse"), fixed.draw(at(0, position), "mouse")
        assert (other.reference, other.dropped) == (0, False)
        assert other.variation == Variation(flip=False, colour=None, window=None)
        assert first.timestep == other.timestep and torch.equal(first.noise["views"], other.noise["views"])


def test_draws_are_the_same_for_ever():
    draw = CHANCE.draw(at(0, 0), "mouse-0")
    assert (draw.timestep, draw.dropped, draw.reference) == (215, False, 3)
    assert draw.noise["views"].flatten()[:3].tolist() == pytest.approx([0.049177, -1.555240, 0.907664], abs=1e-4)

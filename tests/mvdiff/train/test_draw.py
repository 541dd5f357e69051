from dataclasses import replace

import pytest
import torch

from mvdiff.train.draw import Chance

CHANCE = Chance(
    seed=0,
    timesteps=1000,
    condition_drop=0.25,
    random_reference=True,
    noise_shapes={"views": (6, 4, 8, 8), "reference": (4, 8, 8)},
)


def test_a_draw_depends_on_nothing_but_its_place_and_sample():
    first = CHANCE.draw(3, 17, "mouse")
    torch.manual_seed(1)
    CHANCE.draw(3, 18, "rat")
    again = replace(CHANCE).draw(3, 17, "mouse")
    assert torch.equal(first.noise["views"], again.noise["views"])
    assert replace(first, noise=None) == replace(again, noise=None)


@pytest.mark.parametrize("what", [(0, 4, 17, "mouse"), (0, 3, 16, "mouse"), (0, 3, 17, "rat"), (1, 3, 17, "mouse")])
def test_each_of_seed_epoch_position_and_sample_matters(what):
    seed, *place = what
    first, other = CHANCE.draw(3, 17, "mouse"), replace(CHANCE, seed=seed).draw(*place)
    assert not torch.equal(first.noise["views"], other.noise["views"])
    assert first.timestep != other.timestep


def test_draws_have_their_distributions():
    draws = [CHANCE.draw(0, position, "mouse") for position in range(3000)]
    timesteps = torch.tensor([draw.timestep for draw in draws]).double()
    assert timesteps.min() >= 0 and timesteps.max() < 1000
    assert timesteps.mean() == pytest.approx(499.5, abs=20) and timesteps.std() == pytest.approx(288.7, abs=15)
    assert sum(draw.dropped for draw in draws) / 3000 == pytest.approx(0.25, abs=0.03)
    counts = torch.bincount(torch.tensor([draw.reference for draw in draws]), minlength=6)
    assert len(counts) == 6 and counts.min() > 400
    noise = torch.stack([draw.noise["views"] for draw in draws[:100]])
    assert noise.mean().item() == pytest.approx(0, abs=0.01) and noise.std().item() == pytest.approx(1, abs=0.01)


def test_a_setting_changes_its_own_draw_only():
    fixed = replace(CHANCE, random_reference=False, condition_drop=0.0)
    for position in range(50):
        first, other = CHANCE.draw(0, position, "mouse"), fixed.draw(0, position, "mouse")
        assert (other.reference, other.dropped) == (0, False)
        assert first.timestep == other.timestep and torch.equal(first.noise["views"], other.noise["views"])


def test_draws_are_the_same_for_ever():
    draw = CHANCE.draw(0, 0, "mouse-0")
    assert (draw.timestep, draw.dropped, draw.reference) == (215, False, 3)
    assert draw.noise["views"].flatten()[:3].tolist() == pytest.approx([0.049177, -1.555240, 0.907664], abs=1e-4)

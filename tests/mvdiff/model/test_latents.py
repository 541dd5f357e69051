import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvdiff.errors import InputError
from mvdiff.model.latents import PatchLatents


def noise(seed: int, views: int = 2, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (views, size, size, 3), dtype=np.uint8)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), whitening=st.floats(0, 1), deviation=st.floats(0.5, 4))
def test_every_component_kept_comes_back_exactly(seed: int, whitening: float, deviation: float):
    views = noise(seed)
    latents = PatchLatents.fit([views], patch=2, channels=12, whitening=whitening, deviation=deviation, floor=0.0)
    back = latents.decode(latents.encode(torch.from_numpy(views))).numpy()
    assert np.abs(back.astype(int) - views).max() <= 1


def test_white_is_zero_and_zero_is_white():
    latents = PatchLatents.fit([noise(0)], patch=8, channels=5, whitening=0.5, deviation=2.0, floor=0.0)
    white = torch.full((1, 16, 16, 3), 255, dtype=torch.uint8)
    assert torch.count_nonzero(latents.encode(white)) == 0
    assert torch.equal(latents.decode(torch.zeros(1, 5, 2, 2)), white)


def test_whitening_runs_from_the_components_own_variances_to_equal_ones():
    # Patches vary far more in brightness than in anything else.
    chance = np.random.default_rng(0)
    brightness = chance.integers(20, 230, (1, 8, 8, 1)).repeat(4, 1).repeat(4, 2)
    views = np.clip(brightness + chance.integers(-9, 10, (1, 32, 32, 3)), 0, 254).astype(np.uint8)
    spread = {}
    for whitening in (0.0, 0.5, 1.0):
        latents = PatchLatents.fit([views], patch=4, channels=8, whitening=whitening, deviation=3.0, floor=0.0)
        encoded = latents.encode(torch.from_numpy(views))
        assert encoded.square().mean().sqrt().item() == pytest.approx(3.0, rel=0.01)
        deviation = encoded.square().mean((0, 2, 3)).sqrt()
        spread[whitening] = (deviation.max() / deviation.min()).item()
    assert spread[1.0] == pytest.approx(1.0, rel=0.05)
    assert spread[0.0] > 2 * spread[0.5] > 4


def test_leading_components_are_the_best_of_their_number():
    views = np.concatenate([noise(1, 4) // 8, np.full((1, 16, 16, 3), 90, np.uint8)])
    latents = PatchLatents.fit([views], patch=4, channels=6, whitening=0.5, deviation=1.0, floor=0.0)
    rows = torch.nn.functional.pixel_unshuffle(torch.from_numpy(views).permute(0, 3, 1, 2).double() / 255 - 1, 4)
    rows = rows.permute(0, 2, 3, 1).reshape(-1, 48)
    best = torch.linalg.svdvals(rows)[:6].square().sum()
    assert (rows @ latents.basis.double().T).square().sum().item() == pytest.approx(best.item(), rel=1e-4)


def test_fitting_is_deterministic_and_leaves_the_random_state_alone():
    state = torch.random.get_rng_state()
    first, second = (
        PatchLatents.fit(iter([noise(3), noise(4)]), patch=8, channels=7, whitening=0.5, deviation=1.0, floor=0.0)
        for _ in range(2)
    )
    assert torch.equal(first.basis, second.basis)
    assert torch.equal(first.scale, second.scale)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_blank_views_are_refused():
    blank = np.full((6, 16, 16, 3), 255, np.uint8)
    with pytest.raises(InputError, match="blank"):
        PatchLatents.fit([blank], patch=8, channels=4, whitening=0.5, deviation=1.0, floor=0.0)


def test_what_is_fainter_than_the_floor_comes_back_white():
    views = noise(5)
    latents = PatchLatents.fit([views], patch=4, channels=6, whitening=0.5, deviation=1.0, floor=0.25)
    encoded = latents.encode(torch.from_numpy(views))
    energy = encoded.square().sum(1, keepdim=True)
    faint = encoded / energy.sqrt() * (0.24 * 6) ** 0.5
    assert (latents.decode(faint) == 255).all()
    assert (latents.decode(encoded / energy.sqrt() * (0.26 * 6) ** 0.5) < 255).any()

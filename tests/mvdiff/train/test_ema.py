import pytest
import torch
from torch import nn

from mvdiff.train.ema import Ema


def test_it_follows_a_constant_and_ends_at_its_decay():
    target = nn.Linear(3, 3)
    ema = Ema(nn.Linear(3, 3), target, decay=0.9)
    before = ema.model.weight - target.weight
    ema.update(step=10**9)
    assert torch.allclose(ema.model.weight - target.weight, 0.9 * before)
    for step in range(200):
        ema.update(step)
    assert torch.allclose(ema.model.weight, target.weight, atol=1e-5)


def test_a_random_start_is_forgotten_at_once():
    target = nn.Linear(3, 3)
    ema = Ema(nn.Linear(3, 3), target, decay=0.999)
    before = (ema.model.weight - target.weight).norm().item()
    for step in range(20):
        ema.update(step)
    assert (ema.model.weight - target.weight).norm().item() < 0.01 * before


def test_what_it_keeps_is_not_trained():
    model = nn.Linear(3, 3)
    assert not any(weight.requires_grad for weight in Ema(model, nn.Linear(3, 3), decay=0.5).model.parameters())
    assert not model.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_a_weighted_mean(dtype):
    target = nn.Linear(2, 1, dtype=dtype)
    ema = Ema(nn.Linear(2, 1, dtype=dtype), target, decay=0.5)
    expected = (ema.model.bias + target.bias) / 2
    ema.update(step=100)
    assert torch.allclose(ema.model.bias, expected)

"""Layers written anew say what diffusers' own say."""

import copy

import torch
from diffusers.models.activations import GEGLU
from torch import nn

from mvdiff.model.layers import gate_by_halves, norm_by_channel


def twin(layer: nn.Module) -> nn.Module:
    for weight in layer.parameters():
        nn.init.normal_(weight)
    return copy.deepcopy(layer)


def test_a_group_norm_channel_by_channel_is_the_same():
    norm = nn.GroupNorm(4, 12)
    ours = twin(norm)
    norm_by_channel(ours)
    values = 3 * torch.randn(3, 12, 5, 7) + 20
    assert "forward" in vars(ours) and torch.allclose(ours(values), norm(values), atol=1e-5)


def test_a_gate_by_halves_is_the_same_and_so_are_its_gradients():
    gate = GEGLU(6, 10)
    ours = twin(gate)
    gate_by_halves(ours)
    assert "forward" in vars(ours)
    values = torch.randn(3, 7, 6)
    for layer in (gate, ours):
        layer(values).square().sum().backward()
    assert torch.allclose(ours(values), gate(values), atol=1e-5)
    for one, other in zip(ours.parameters(), gate.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-3)


def test_a_gate_whose_projection_is_adapted_stays_as_it_is():
    class Adapted(nn.Linear):
        """As a LoRA puts something else in the place of a layer."""

    gate = GEGLU(6, 10)
    gate.proj = Adapted(6, 20)
    gate_by_halves(gate)
    assert "forward" not in vars(gate)

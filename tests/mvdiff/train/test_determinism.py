"""Kernels that give the same bits each time are asked for within a run, and not beyond it."""

import pytest
import torch

from mvdiff.train.determinism import deterministic
from mvdiff.train.journal import read_losses


def test_torch_refuses_other_kernels_within_the_block_only():
    with pytest.raises(ZeroDivisionError), deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        raise ZeroDivisionError
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_it_may_be_switched_on_at_a_restart_and_changes_nothing_on_a_cpu(run, another, settings):
    run.train(settings())
    another.train(settings(), stop_at=2)
    assert another.train(settings(deterministic=True)) == "done"
    assert read_losses(run.events) == read_losses(another.events)

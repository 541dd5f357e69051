import pytest
import torch

from mvdiff.model.memory import random_model
from mvdiff.train.state import TrainingState

CPU = torch.device("cpu")


@pytest.fixture
def state(model_settings, settings):
    """All but one weight, which no pass reaches, have a gradient."""
    made = TrainingState(random_model(model_settings, CPU), settings(trainable="full"), CPU)
    torch.manual_seed(0)
    for weight in list(made.trained.values())[1:]:
        weight.grad = torch.randn_like(weight)
    return made


def gradients(state):
    return {name: weight.grad.clone() for name, weight in state.trained.items() if weight.grad is not None}


def test_gradients_are_clipped_as_torch_does_it(state):
    before = gradients(state)
    norm = torch.nn.utils.clip_grad_norm_(state.trained.values(), 1.0)
    clipped = gradients(state)
    for name, one in before.items():
        state.trained[name].grad.copy_(one)
    assert state.clip(1.0) == float(norm) > 1
    assert all(torch.equal(one, clipped[name]) for name, one in gradients(state).items())


def test_gradients_below_the_norm_stay_as_they_are(state):
    before = gradients(state)
    assert state.clip(1e9) > 0
    assert all(torch.equal(one, before[name]) for name, one in gradients(state).items())


def test_kept_gradients_have_their_memory_for_good_also_where_one_was_left_out_of_a_step(state):
    untouched, left_out, *_ = state.trained.values()
    state.keep_gradients()
    kept = {name: weight.grad.data_ptr() for name, weight in state.trained.items() if weight.grad is not None}
    assert len(kept) == len(state.trained) - 1
    left_out.grad = None
    state.advance()
    assert untouched.grad is None and untouched not in state.optimizer.state
    assert left_out not in state.optimizer.state
    assert not any(one.any() for one in gradients(state).values()) and gradients(state).keys() == kept.keys()
    again = {name: state.trained[name].grad.data_ptr() for name in kept}
    assert sum(again[name] == kept[name] for name in kept) >= len(kept) - 1

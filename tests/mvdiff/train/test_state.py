import copy

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


def stepped(state, most, clip):
    """What ``clip`` says, and the gradients' running mean after one step from where ``state`` is, which stays there."""
    twin = copy.deepcopy(state)
    for name, weight in twin.trained.items():
        # which torch leaves out of a copy
        weight.grad = copy.deepcopy(state.trained[name].grad)
    said = clip(twin, most)
    twin.optimizer.step()
    kept = twin.optimizer.state
    return said, {name: kept[weight]["exp_avg"] for name, weight in twin.trained.items() if weight in kept}


def as_torch(state, most):
    return torch.nn.utils.clip_grad_norm_(state.trained.values(), most)


def test_a_step_takes_gradients_clipped_as_torch_clips_them(state):
    (norm, ours), (torchs, theirs) = (stepped(state, 1.0, clip) for clip in (TrainingState.clip, as_torch))
    assert norm == torchs > 1 and len(ours) == len(state.trained) - 1
    assert all(torch.allclose(one, theirs[name], rtol=1e-5, atol=0) for name, one in ours.items())


def test_a_step_takes_gradients_below_the_norm_as_they_are(state):
    (_, ours), (_, theirs) = (stepped(state, 1e9, clip) for clip in (TrainingState.clip, lambda *_: None))
    assert ours.keys() == theirs.keys() and all(torch.equal(one, theirs[name]) for name, one in ours.items())


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

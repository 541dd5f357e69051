"""The copy that checkpoints are made of: its memory comes behind training, and it holds what the state was."""

import threading

import pytest
import torch
from safetensors.torch import load_file

from mvdiff.model.memory import random_model
from mvdiff.train import record, snapshot
from mvdiff.train.snapshot import OPTIMIZER, WEIGHTS
from mvdiff.train.sources import Sources
from mvdiff.train.state import TrainingState

CPU = torch.device("cpu")


@pytest.fixture
def state(settings, model_settings):
    return TrainingState(random_model(model_settings, CPU), settings(), CPU)


def step(state: TrainingState) -> None:
    for weight in state.trained.values():
        weight.grad = torch.ones_like(weight)
    state.advance()


def written(state, copied, folder, data, settings, model_settings):
    folder.mkdir()
    content = record.describe(settings(), model_settings, Sources.open(data, None, None), None)
    copied.write(folder, content, 1.0, lambda _name: None)
    return load_file(folder / WEIGHTS), load_file(folder / OPTIMIZER)


def test_training_goes_on_while_memory_is_had(state, monkeypatch):
    go_on = threading.Event()

    def slow(tensor):
        assert go_on.wait(30)
        return torch.empty_like(tensor)

    monkeypatch.setattr(snapshot, "_room", slow)
    copied = state.snapshot()
    step(state)
    go_on.set()
    copied.take(1, [])
    assert copied.step == 1


def test_a_copy_is_of_its_step_whatever_comes_after(state, tmp_path, data, settings, model_settings):
    copied = state.snapshot()
    step(state)
    then = {name: weight.detach().clone() for name, weight in state.trained.items()}
    moments = {name: moment.clone() for name, moment in state._moments().items()}
    copied.take(1, [])
    step(state)
    weights, kept = written(state, copied, tmp_path / "one", data, settings, model_settings)
    assert weights.keys() == then.keys() and all(torch.equal(weights[name], then[name]) for name in then)
    assert kept.keys() == moments.keys() and all(torch.equal(kept[name], moments[name]) for name in moments)


def test_before_the_first_step_no_moments_are_written(state, tmp_path, data, settings, model_settings):
    copied = state.snapshot()
    copied.take(0, [])
    step(state)
    _, kept = written(state, copied, tmp_path / "none", data, settings, model_settings)
    assert not kept


def test_memory_that_cannot_be_had_is_told_where_the_copy_is_asked_for(state, monkeypatch):
    def none(tensor):
        raise RuntimeError("out of host memory")

    monkeypatch.setattr(snapshot, "_room", none)
    copied = state.snapshot()
    with pytest.raises(RuntimeError, match="out of host memory"):
        copied.take(0, [])

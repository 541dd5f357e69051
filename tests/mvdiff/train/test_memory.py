"""A training step on meta tensors, against the same step tracked on real ones, and what settings save."""

import dataclasses

import pytest
import torch

from mvdiff.model import memory
from mvdiff.model.memory import GIB, Measurement, Tracker, random_model
from mvdiff.train.memory import footprint, largest_micro_batch, measured_step, random_batch, run_pass
from mvdiff.train.state import TrainingState
from tests.mvdiff.model.conftest import large  # noqa: F401
from tests.mvdiff.model.test_memory import flushed, reduced  # noqa: F401

CPU = torch.device("cpu")


@pytest.fixture
def model_settings(large):  # noqa: F811
    return large("any")


@pytest.fixture
def full_size(large):  # noqa: F811
    return large("any", size=320, condition_size=320)


@pytest.fixture
def of(settings):
    return lambda **overrides: settings(mixed_precision="no", **overrides)


def on_cpu(settings, model_settings, micro_batch, gradients_stay):
    """Bytes at the peak of the second of two real steps."""
    tracker = Tracker(CPU)
    with tracker:
        state = TrainingState(random_model(model_settings, CPU), settings, CPU)
        batch = random_batch(state.model, micro_batch, CPU)
        for _ in range(2):
            tracker.restart()
            for _ in range(2 if gradients_stay else 1):
                run_pass(state, batch, lambda: torch.autocast("cpu", enabled=False))
            state.clip(settings.max_grad_norm)
            state.advance()
    return tracker.peak


@pytest.mark.parametrize("gradients_stay", [False, True])
@pytest.mark.parametrize(
    "overrides",
    [{}, {"gradient_checkpointing": True}, {"trainable": "freeze_encoder"}, {"trainable": "lora"}],
    ids=["full", "checkpointing", "freeze_encoder", "lora"],
)
def test_a_step_takes_what_the_same_tensors_take_on_a_cpu(
    of, model_settings, reduced, flushed, overrides, gradients_stay  # noqa: F811
):  # fmt: skip
    settings = of(**overrides)
    estimated = footprint(settings, model_settings, 2, gradients_stay=gradients_stay).peak - memory._WORKSPACE
    assert estimated == pytest.approx(on_cpu(settings, model_settings, 2, gradients_stay), rel=0.01)


def test_weights_averages_and_moments_are_those_of_the_real_state(of, model_settings, reduced):  # noqa: F811
    for overrides in ({}, {"trainable": "freeze_encoder"}, {"trainable": "lora"}):
        settings = of(**overrides)
        found = footprint(settings, model_settings, 1, gradients_stay=False)
        state = TrainingState(random_model(model_settings, CPU), settings, CPU)
        for weight in state.trained.values():
            weight.grad = torch.zeros_like(weight)
        state.optimizer.step()
        moments = [
            kept for one in state.optimizer.state.values() for name, kept in one.items() if name.startswith("exp_avg")
        ]
        everything = (*state.model.parameters(), *state.model.buffers())
        assert found.trained == sum(weight.numel() for weight in state.trained.values())
        assert found.moments == sum(kept.nbytes for kept in moments) == 2 * found.averages
        assert found.averages == sum(average.nbytes for average in state.ema.averages.values())
        assert found.weights == sum(one.nbytes for one in everything)
        assert "lora" not in found.parameters and found.parameters == memory.parameters(
            random_model(model_settings, CPU)
        )


def test_the_large_model_in_numbers_of_gib(of, full_size):
    def peak(micro_batch=2, gradients_stay=False, **overrides):
        settings = dataclasses.replace(of(**overrides), mixed_precision=overrides.get("mixed_precision", "bf16"))
        return footprint(settings, full_size, micro_batch, gradients_stay=gradients_stay).peak / GIB

    full, staying = peak(), peak(gradients_stay=True)
    trained = 869_190_980 * 4 / GIB
    assert staying - full == pytest.approx(trained, rel=0.02), "gradients are there already at the peak"
    sample = peak(3) - full
    assert 2 < sample < 5
    checkpointed = peak(gradient_checkpointing=True)
    assert full - checkpointed > 1.2 * sample, "most of the activations of two samples"
    # down blocks' gradients are not there at the peak; averages, moments and activations are saved
    frozen = peak(trainable="freeze_encoder")
    assert full - frozen == pytest.approx(24.01 - 20.60, rel=0.01), "as measured on an H200"
    assert full - peak(trainable="lora") > 2.5 * trained, "no averages, no moments, but activations of its own"


@pytest.mark.parametrize(
    ("room", "largest"), [(10, 0), (20, 1), (29, 1), (31, 2), (100, 9), (169, 15), (170, 16), (1000, 16)]
)
@pytest.mark.parametrize("asked", [1, 4, 16])
def test_the_largest_micro_batch_is_found_on_a_straight_line(room, largest, asked):
    looked = set()

    def peak(samples):
        looked.add(samples)
        return 10 + 10 * samples

    assert largest_micro_batch(peak, room, asked, 16) == largest
    assert len(looked) <= 4


@pytest.mark.parametrize("room", range(15, 300, 7))
def test_the_largest_micro_batch_fits_on_a_bent_line_too(room):
    def peak(samples):
        return max(20 + samples, 10 * samples, 16 * samples - 60)

    found = largest_micro_batch(peak, room, 4, 16)
    assert found == 0 or peak(found) <= room
    true = max((samples for samples in range(1, 17) if peak(samples) <= room), default=0)
    assert true - 1 <= found <= true


def test_a_measured_step_is_a_real_one(of, model_settings, reduced, flushed, monkeypatch):  # noqa: F811
    ran = []

    def measured(work, device):
        work()
        ran.append(device)
        return Measurement(1, 2)

    monkeypatch.setattr("mvdiff.train.memory.measured", measured)
    assert measured_step(of(), model_settings, 1, CPU, gradients_stay=True) == Measurement(1, 2)
    assert ran == [CPU]

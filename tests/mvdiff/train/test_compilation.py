import tempfile
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from mvdiff.model.build import create
from mvdiff.train.compilation import compile_training
from mvdiff.train.journal import read_losses
from mvdiff.train.memory import random_batch, run_pass
from mvdiff.train.state import TrainingState
from mvdiff.train.world import World, joined
from tests.mvdiff.model.conftest import large, smooth_picture, zero123plus  # noqa: F401

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def traced(tmp_path, monkeypatch):
    """What is traced and cut into forward and backward pass, run as it is: Inductor's C++ compiler takes minutes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path))  # put back, whatever the test sets
    with_inductor = torch.compile

    def as_traced(function, *, options=None, backend="inductor", **asked):
        return with_inductor(function, backend="aot_eager", **asked)

    monkeypatch.setattr(torch, "compile", as_traced)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_compiled_run_that_was_stopped_has_the_losses_of_an_eager_one(run, another, settings, checkpointing):
    """In passes of two sizes that add up their gradients, which are kept, and let go of where they are frozen."""
    asked = partial(settings, micro_batch=2, batch=5, freeze_encoder_epochs=0.8, max_grad_norm=0.5)
    assert another.train(asked()) == "done"

    compiled = asked(compile=True, gradient_checkpointing=checkpointing)
    counters.clear()
    assert run.train(compiled, stop_at=3) == "stopped"
    assert counters["aot_autograd"]["total"] == 2, "something was compiled outside of its turn"
    assert run.train(compiled) == "done"
    assert [line for line in run.lines if line.startswith("compiled: 2 graphs")]

    losses, eager = (list(read_losses(one.events).values()) for one in (run, another))
    assert len(losses) == len(eager) == 6
    assert losses == pytest.approx(eager, rel=1e-5)


def test_a_large_model_has_the_gradients_of_an_eager_pass(large, zero123plus, settings):  # noqa: F811
    """A tile's, with a LoRA: the network is another one, and the frozen parts are compiled as well."""
    asked = settings(micro_batch=2, batch=2, compile=True, trainable="lora")
    tiled = large(zero123plus, size=64, condition_size=64, layout="tile", camera="none")
    made = create(tiled, [smooth_picture(0)[None]], 0)
    state = TrainingState(made, asked, CPU)
    batch = random_batch(state.model, 2, CPU)

    def gradients() -> dict[str, torch.Tensor]:
        run_pass(state, batch, nullcontext)
        found = {name: weight.grad for name, weight in state.trained.items() if weight.grad is not None}
        state.forget_gradients()
        return found

    eager = gradients()
    with joined(World(0, 1, 0, "127.0.0.1", 0), "no") as group:
        compile_training(state, asked, group, print)
    compiled = gradients()
    assert compiled.keys() == eager.keys()
    # the latents of the blank picture, which is flat, differ by a ten-thousandth where norms go by channel
    total = sum(float(one.square().sum()) for one in eager.values()) ** 0.5
    assert all(float((compiled[name] - one).norm()) < 2e-3 * total for name, one in eager.items())

import math
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

from mvdiff.model.build import create
from mvdiff.train.compilation import compile_training
from mvdiff.train.journal import read_losses
from mvdiff.train.memory import random_batch, run_pass
from mvdiff.train.state import TrainingState
from mvdiff.train.world import World, joined
from tests.mvdiff.model.conftest import disk, large, smooth_picture, zero123plus  # noqa: F401

CPU = torch.device("cpu")


class Pool:
    """Compiles as CUDA graphs behave: what a pass, forward and back, returns is gone when the next one runs.

    What is traced and cut into passes runs as it is: Inductor's C++ compiler takes minutes.
    """

    def __init__(self) -> None:
        self.overwritten = 0
        """Of what was returned, that was still held when it was gone: a graph's reader would have been refused."""
        self._returned: list[torch.Tensor] = []

    def backend(self, graph, examples):
        return aot_autograd(
            fw_compiler=partial(self._made, forward=True),
            bw_compiler=partial(self._made, forward=False),
            partition_fn=min_cut_rematerialization_partition,
        )(graph, examples)

    def _made(self, graph, examples, forward):
        def run(*arguments):
            if forward:
                while self._returned:
                    gone = self._returned.pop()
                    # two hold it here
                    self.overwritten += torch._C._storage_Use_Count(gone.untyped_storage()._cdata) > 2
                    gone.fill_(math.nan)
            returned = graph(*arguments)
            tensors = [one for one in returned if isinstance(one, torch.Tensor) and one.is_floating_point()]
            others = {one.untyped_storage().data_ptr() for one in arguments if isinstance(one, torch.Tensor)}
            own = {one.untyped_storage().data_ptr(): one.detach() for one in tensors}
            self._returned += [one for place, one in own.items() if place not in others]
            return returned

        return make_boxed_func(run)


@pytest.fixture(autouse=True)
def pool(disk, monkeypatch):  # noqa: F811
    """What compiles here, in a process that has compiled nothing."""
    with_inductor, pool = torch.compile, Pool()

    def as_graphs(function, *, options=None, backend="inductor", **asked):
        return with_inductor(function, backend=pool.backend, **asked)

    monkeypatch.setattr(torch, "compile", as_graphs)
    return pool


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_compiled_run_that_was_stopped_has_the_losses_of_an_eager_one(run, another, settings, checkpointing, pool):
    """In passes of two sizes that add up their gradients, which are kept, and let go of where they are frozen."""
    asked = partial(settings, micro_batch=2, batch=5, freeze_encoder_epochs=0.8, max_grad_norm=0.5)
    assert another.train(asked()) == "done"

    compiled = asked(compile=True, gradient_checkpointing=checkpointing)
    counters.clear()
    assert run.train(compiled, stop_at=3) == "stopped"
    assert counters["aot_autograd"]["total"] == 2, "something was compiled outside of its turn"
    assert run.train(compiled) == "done"
    assert [line for line in run.lines if line.startswith("compiled: 2 graphs")]

    assert not pool.overwritten
    losses, eager = (list(read_losses(one.events).values()) for one in (run, another))
    assert len(losses) == len(eager) == 6
    assert losses == pytest.approx(eager, rel=1e-5)


def test_a_large_model_has_the_gradients_of_an_eager_pass(large, zero123plus, settings, pool):  # noqa: F811
    """A tile's: the frozen parts are compiled as well, and what they return is gone when the network runs."""
    asked = settings(micro_batch=2, batch=2, compile=True, trainable="full")
    tiled = large(zero123plus, size=64, condition_size=64, layout="tile", camera="none")
    made = create(tiled, [smooth_picture(0)[None]], 0)
    state = TrainingState(made, asked, CPU)
    torch.manual_seed(0)
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
    assert compiled.keys() == eager.keys() and not pool.overwritten
    # the latents of the blank picture, which is flat, differ by a ten-thousandth where norms go by channel
    total = sum(float(one.square().sum()) for one in eager.values()) ** 0.5
    assert all(float((compiled[name] - one).norm()) < 2e-3 * total for name, one in eager.items())

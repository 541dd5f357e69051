import tempfile
from functools import partial

import pytest
import torch

from mvdiff.train.journal import read_losses


@pytest.fixture(autouse=True)
def traced(tmp_path, monkeypatch):
    """What is traced and cut into forward and backward pass, run as it is: Inductor's C++ compiler takes minutes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path))  # put back, whatever the test sets
    with_inductor = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, options, **asked: with_inductor(function, backend="aot_eager", **asked)
    )
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_compiled_run_that_was_stopped_has_the_losses_of_an_eager_one(run, another, settings, checkpointing):
    """In passes that add up their gradients, the down blocks frozen at first: gradients are kept, and let go of."""
    asked = partial(settings, micro_batch=2, batch=4, freeze_encoder_epochs=0.8, max_grad_norm=0.5)
    assert another.train(asked()) == "done"

    compiled = asked(compile=True, gradient_checkpointing=checkpointing)
    assert run.train(compiled, stop_at=3) == "stopped"
    assert run.train(compiled) == "done"
    assert [line for line in run.lines if line.startswith("compiled: 1 graphs")]

    losses, eager = (list(read_losses(one.events).values()) for one in (run, another))
    assert len(losses) == len(eager) == 6
    assert losses == pytest.approx(eager, rel=1e-5)

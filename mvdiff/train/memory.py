"""How much GPU memory a training step needs: played on meta tensors, or run and measured on a GPU."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from mvdiff.model.batch import TrainingBatch
from mvdiff.model.emulation import Emulation
from mvdiff.model.memory import META, Measurement, Tracker, empty_model, measured, on_meta, parameters, random_model
from mvdiff.model.multiview import MultiViewModel
from mvdiff.model.pipeline import PRECISIONS
from mvdiff.model.settings import ModelSettings
from mvdiff.rig import VIEWS
from mvdiff.train.settings import TrainSettings
from mvdiff.train.state import TrainingState


@dataclass(frozen=True)
class Footprint:
    """Bytes on the GPU in a training step."""

    weights: int
    """Of all components, trained or not."""
    averages: int
    """The averaged copy of what is trained."""
    moments: int
    """AdamW's."""
    peak: int
    """All of these with gradients, activations and what kernels need, where they are most."""
    trained: int
    """How many numbers are trained."""
    parameters: dict[str, int]
    """How many there are in each component."""

    @property
    def rest(self) -> int:
        """Activations, gradients and temporaries at the peak."""
        return self.peak - self.weights - self.averages - self.moments


def footprint(
    settings: TrainSettings, model_settings: ModelSettings, micro_batch: int, *, gradients_stay: bool
) -> Footprint:
    """Of a step that passes ``micro_batch`` samples at once.

    ``gradients_stay``: they are in memory already when a forward pass begins, accumulating or in DDP's buckets. What
    follows the backward pass is left out, since it works in place: clipping, AdamW (fused), the moving average.
    """
    states: list[TrainingState] = []
    counted: dict[str, int] = {}

    def work(tracker: Tracker, emulation: Emulation) -> None:
        model = empty_model(model_settings)
        counted.update(parameters(model))
        state = TrainingState(model, settings, META)
        states.append(state)
        if settings.gradient_checkpointing:
            state.model.unet.enable_gradient_checkpointing(emulation.checkpoint)
        for weight in state.trained.values():
            # as AdamW's first step makes them; fused AdamW refuses meta tensors
            state.optimizer.state[weight] = {name: torch.empty_like(weight) for name in ("exp_avg", "exp_avg_sq")}
            if gradients_stay:
                weight.grad = torch.empty_like(weight)
        batch = random_batch(state.model, micro_batch, META)
        tracker.restart()
        run_pass(state, batch, lambda: emulation.autocast(PRECISIONS[settings.mixed_precision]))

    peak = on_meta(work)
    model, trained = states[0].model, states[0].trained.values()
    changed = sum(weight.nbytes for weight in trained)
    return Footprint(
        weights=sum(one.nbytes for one in (*model.parameters(), *model.buffers())),
        averages=changed,
        moments=2 * changed,
        peak=peak,
        trained=sum(weight.numel() for weight in trained),
        parameters=counted,
    )


def largest_micro_batch(peak: Callable[[int], int], room: int, asked: int, most: int) -> int:
    """A micro-batch up to ``most`` whose ``peak`` in bytes is within ``room``, as large as can be; 0: there is none.

    ``peak`` is the largest of several sums that grow evenly, so a straight line between two of its points lies on it or
    above: where the line meets ``room``, the micro-batch fits. Starts from ``asked``, whose peak may be known already.
    """
    low = asked if peak(asked) <= room else 1
    if low == most or peak(most) <= room:
        return most
    if peak(low) > room:
        return 0
    while True:
        slope = (peak(most) - peak(low)) / (most - low)
        further = int((room - peak(low)) / slope)
        if further == 0:
            return low
        low += further


def measured_step(
    settings: TrainSettings,
    model_settings: ModelSettings,
    micro_batch: int,
    device: torch.device,
    *,
    gradients_stay: bool,
) -> Measurement:
    """What the GPU ``device`` counts in the second of two steps of a model with random weights."""
    state = TrainingState(random_model(model_settings, device), settings, device)
    batch = random_batch(state.model, micro_batch, device)
    dtype = PRECISIONS[settings.mixed_precision]

    def step() -> None:
        for _ in range(2 if gradients_stay else 1):
            run_pass(state, batch, lambda: torch.autocast(device.type, dtype, enabled=dtype is not None))
        state.clip(settings.max_grad_norm)
        state.advance()

    step()
    return measured(step, device)


def run_pass(state: TrainingState, batch: TrainingBatch, autocast: Callable[[], AbstractContextManager[None]]) -> None:
    """Forward and backward pass of one micro-batch, as the trainer makes it."""
    with autocast():
        losses = state.model(batch)
    losses.sum().backward()


def random_batch(model: MultiViewModel, samples: int, device: torch.device) -> TrainingBatch:
    """A micro-batch of noise for ``model``."""
    size, sight = model.settings.size, model.sight

    def pictures(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, (samples, *shape, 3), dtype=torch.uint8, device=device)

    return TrainingBatch(
        sample_ids=[str(number) for number in range(samples)],
        views=pictures(VIEWS, size, size),
        reference=pictures(sight.condition_size, sight.condition_size),
        glance=pictures(sight.glance_size, sight.glance_size),
        cameras=torch.randn(samples, VIEWS, 4, device=device),
        timestep=torch.randint(0, model.num_train_timesteps, (samples,), device=device),
        noise={name: torch.randn(samples, *shape, device=device) for name, shape in model.noise_shapes.items()},
        dropped=torch.zeros(samples, dtype=torch.bool, device=device),
    )

"""How fast training is: the trainer's step on a feed of noise, stage by stage, and what of it the UNet takes."""

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mvdiff.bench import ceiling, flops, report, subject
from mvdiff.bench.profile import profiled
from mvdiff.bench.report import Figures
from mvdiff.bench.settings import BenchSettings
from mvdiff.bench.stages import Stages
from mvdiff.model.pipeline import PRECISIONS
from mvdiff.model.settings import ModelSettings
from mvdiff.train.compilation import compile_training
from mvdiff.train.determinism import deterministic
from mvdiff.train.draw import Chance
from mvdiff.train.feed import Feed
from mvdiff.train.memory import random_batch
from mvdiff.train.order import Batches
from mvdiff.train.readout import Readout
from mvdiff.train.settings import TrainSettings
from mvdiff.train.sources import Sources
from mvdiff.train.state import TrainingState
from mvdiff.train.world import Group, World, joined


def measure(
    settings: TrainSettings,
    model_settings: ModelSettings,
    bench: BenchSettings,
    folder: Path,
    world: World,
    tell: Callable[[str], None],
) -> Figures:
    """Figures of steps of one pass of ``settings.micro_batch`` samples a rank; ``folder`` is for a shard of noise.

    ``step`` is all that the trainer does: reading, encoding by the frozen parts, forward and backward pass, clipping,
    AdamW and the average. ``unet`` is what remains without reading, encoding and the average, measured on one GPU.
    """
    size = settings.micro_batch * world.world_size
    settings = replace(settings, batch=size, steps=bench.warmup + bench.repeats, epochs=None, prior_share=0.0)
    torch.set_num_threads(settings.threads)
    with deterministic(settings.deterministic), joined(world, settings.mixed_precision) as group:
        path = folder / f"rank-{world.rank}"
        sources = Sources.open(subject.shard(path, bench.rows, model_settings.cameras, model_settings.size), None, None)
        run = _Run(settings, model_settings, bench, sources, group, tell)
        try:
            return run.figures()
        finally:
            run.end()


class _Run:
    def __init__(
        self,
        settings: TrainSettings,
        model_settings: ModelSettings,
        bench: BenchSettings,
        sources: Sources,
        group: Group,
        tell: Callable[[str], None],
    ) -> None:
        self.settings, self.model_settings, self.bench, self.sources, self.group = (
            settings, model_settings, bench, sources, group,
        )  # fmt: skip
        self.device = group.device
        self.dtype = PRECISIONS[settings.mixed_precision]
        self.ceiling = ceiling.matrix_product(self.device, self.dtype or torch.float32)
        self.state = TrainingState(subject.model(model_settings, self.device), settings, self.device)
        self.compiled = compile_training(self.state, settings, group, tell) if settings.compile else None
        self.model = group.wrap(self.state.model)

    def figures(self) -> Figures:
        """All there is."""
        micro = self.settings.micro_batch
        tflop = flops.of_training(self.settings, self.model_settings, micro)
        unet = (tflop["forward"] + tflop["backward"]) / micro
        found: Figures = {
            **report.surroundings(self.device),
            "ranks": self.group.world_size,
            "micro_batch": micro,
            "mixed_precision": self.settings.mixed_precision,
            "compile": self.settings.compile,
            "deterministic": self.settings.deterministic,
            "matrix_product_tflop_per_s": self.ceiling,
        }
        if self.compiled is not None:
            found["compiled"] = {
                "graphs": self.compiled.graphs, "cached": self.compiled.cached, "seconds": self.compiled.seconds,
            }  # fmt: skip
        report.forget_memory(self.device)
        stages, waited = self._steps()
        took = stages.seconds()
        total = sum(took.values())
        every = self.bench.repeats * micro
        found["step"] = {
            **report.speed(every, total, unet + tflop["encode"] / micro, self.ceiling),
            **report.memory(self.device),
            "seconds": total / self.bench.repeats,
            "shares": stages.shares(),
            "waited_for_data": waited / total,
        }
        if self.group.world_size == 1:
            found["unet"] = report.speed(every, self._unet(), unet, self.ceiling)
        return found

    def end(self) -> None:
        """Let go of the model while the group stands."""
        del self.model
        self.group.unwrap()
        del self.state
        gc.collect()

    def _steps(self) -> tuple[Stages, float]:
        """Whole steps: their stages, and seconds spent waiting for data."""
        model = self.state.model
        chance = Chance.of(self.settings, model.num_train_timesteps, model.noise_shapes)
        feed = Feed(
            self.sources, Batches(self.sources, self.settings), chance, self.settings, model.sight,
            self.model_settings.cameras, self.group.rank, self.group.world_size, subject.refuse,
            pin=self.device.type == "cuda",
        )  # fmt: skip
        with feed:
            for step in range(self.bench.warmup):
                self._step(feed, step, Stages(self.device))
            waited = feed.waited
            stages = Stages(self.device)
            for step in range(self.bench.warmup, self.settings.last_step):
                self._step(feed, step, stages)
            stages.seconds()
            return stages, feed.waited - waited

    def _step(self, feed: Feed, step: int, stages: Stages) -> None:
        accelerator = self.group.accelerator
        with stages.stage("data"):
            batch = feed.take(step)[0].to(self.device)
        with stages.stage("encode"), accelerator.autocast():
            encoded = self.state.model.encoded(batch)
        with stages.stage("forward"):
            losses: Tensor = self.model(batch, encoded)
        with stages.stage("backward"):
            accelerator.backward(losses.mean())
        with stages.stage("clip"):
            norm = self.state.clip(self.settings.max_grad_norm)
            readout = Readout(torch.cat([losses.detach(), norm[None]]).double())
        with stages.stage("optimizer and average"):
            self.state.advance()
            # as the trainer waits for them
            readout.numbers()

    def _unet(self) -> float:
        """Seconds of the repeated passes through what is trained, and its optimizer, on a batch that is there."""
        accelerator, state = self.group.accelerator, self.state
        batch = random_batch(state.model, self.settings.micro_batch, self.device)
        with accelerator.autocast():
            encoded = state.model.encoded(batch)

        def step() -> None:
            accelerator.backward(self.model(batch, encoded).mean())
            state.clip(self.settings.max_grad_norm)
            state.optimizer.step()
            state.forget_gradients()

        for _ in range(max(1, self.bench.warmup)):
            step()
        took = ceiling.seconds(step, self.device, self.bench.repeats) * self.bench.repeats
        if self.bench.profile:
            print(profiled(step, self.device), flush=True)
        return took

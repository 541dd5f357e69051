"""How fast generation is: a worker that reads, samples and writes, the sampler stage by stage, and a peer beside it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mvdiff.bench import ceiling, flops, report, subject
from mvdiff.bench.peer import PublicPipeline
from mvdiff.bench.profile import profiled
from mvdiff.bench.report import Figures
from mvdiff.bench.settings import BenchSettings
from mvdiff.bench.stages import Stages
from mvdiff.events import EventLog
from mvdiff.generate.plan import make_plan
from mvdiff.generate.settings import GenerateSettings, Recipe
from mvdiff.generate.worker import run_worker
from mvdiff.model.compilation import Compilation
from mvdiff.model.pipeline import PRECISIONS, MultiViewPipeline
from mvdiff.model.settings import ModelSettings
from mvdiff.model.space import KLSpace
from mvdiff.shard import ShardIndex

_COMPARED = 2
"""Samples whose views are compared with those of float32."""


def measure(
    settings: GenerateSettings,
    model_settings: ModelSettings,
    bench: BenchSettings,
    folder: Path,
    tell: Callable[[str], None],
) -> Figures:
    """Figures of one worker with this process's device; ``folder`` is for a shard of noise and the results.

    ``worker`` is all of it, from the plan to published slices. ``call`` is one call of the pipeline on pictures in
    memory. ``numerics`` compares with eager float32 on the same noise, ``peer`` is ``PublicPipeline``.
    """
    torch.set_num_threads(settings.threads)
    return _Run(settings, model_settings, bench, folder, tell).figures()


def worker(
    settings: GenerateSettings,
    model_settings: ModelSettings,
    bench: BenchSettings,
    folder: Path,
    tell: Callable[[str], None],
    together: Callable[[], None],
) -> Figures:
    """``worker`` of ``measure`` alone; it begins when ``together`` returns, which is called once all is ready."""
    torch.set_num_threads(settings.threads)
    return _Run(settings, model_settings, bench, folder, tell).worker(together)


class _Run:
    def __init__(
        self,
        settings: GenerateSettings,
        model_settings: ModelSettings,
        bench: BenchSettings,
        folder: Path,
        tell: Callable[[str], None],
    ) -> None:
        self.settings, self.model_settings, self.bench, self.folder, self.tell = (
            settings, model_settings, bench, folder, tell,
        )  # fmt: skip
        self.device = subject.device()
        dtype = PRECISIONS[settings.mixed_precision]
        self.ceiling = ceiling.matrix_product(self.device, dtype or torch.float32)
        model = subject.model(model_settings, self.device)
        self.pictures = np.random.default_rng(0).integers(
            0, 256, (settings.batch, model_settings.size, model_settings.size, 3), np.uint8
        )
        self.exact = self._exact(MultiViewPipeline(model, self.device)) if bench.peer else None
        self.pipeline = MultiViewPipeline(model, self.device, settings.mixed_precision)
        self.pipeline.own()
        self.compiled: Compilation | None = None
        if settings.compile:
            self.compiled = self.pipeline.compile(settings.batch, settings.sampler, settings.guidance, tell)

        self.parts = flops.of_generation(model_settings, settings.batch)
        passes = self.parts["condition"] + self.parts["views"] * (1 if settings.guidance == 1 else 2)
        self.tflop = (self.parts["encode"] + settings.steps * passes + self.parts["decode"]) / settings.batch
        """Of a sample."""

    def worker(self, together: Callable[[], None]) -> Figures:
        """Only a worker, once ``together`` returns."""
        for _ in range(self.bench.warmup):
            self._call()
        together()
        return self._surroundings() | {"worker": self._worker()}

    def figures(self) -> Figures:
        """All there is."""
        batch = self.settings.batch
        found = self._surroundings()
        for _ in range(self.bench.warmup):
            self._call()
        report.forget_memory(self.device)
        stages = Stages(self.device)
        for _ in range(self.bench.repeats):
            self._call(stages)
        took = sum(stages.seconds().values())
        found["call"] = {
            **report.speed(self.bench.repeats * batch, took, self.tflop, self.ceiling),
            **report.memory(self.device),
            "shares": stages.shares(),
        }
        if self.exact is not None:
            found["numerics"] = self._numerics()
        found["worker"] = self._worker()
        if self.bench.profile:
            print(profiled(lambda: self._call(steps=2), self.device), flush=True)
        if self.bench.peer:
            found["peer"] = self._peer()
        return found

    def _surroundings(self) -> Figures:
        """What the figures were taken with."""
        settings = self.settings
        found: Figures = {
            **report.surroundings(self.device),
            "batch": settings.batch,
            "steps": settings.steps,
            "guidance": settings.guidance,
            "mixed_precision": settings.mixed_precision,
            "compile": settings.compile,
            "matrix_product_tflop_per_s": self.ceiling,
            "tflop": self.parts,
        }
        if self.compiled is not None:
            found["compiled"] = {
                "graphs": self.compiled.graphs, "cached": self.compiled.cached, "seconds": self.compiled.seconds,
            }  # fmt: skip
        return found

    def _call(self, stages: Stages | None = None, steps: int | None = None) -> None:
        """One call of the pipeline; ``first step`` holds what the frozen parts make of the pictures too."""
        names = iter(["encode and first step"])

        def progress(_steps: int) -> None:
            if stages is not None:
                stages.mark(next(names, "other steps"))

        self.pipeline(
            self.pictures, range(len(self.pictures)), steps or self.settings.steps, self.settings.guidance, progress,
            sampler=self.settings.sampler,
        )  # fmt: skip
        if stages is not None:
            stages.mark("decode")

    def _worker(self) -> Figures:
        """A worker over the shard of noise; ``steady`` leaves out its first slice, in which it has nothing to write."""
        settings = self.settings
        data = subject.shard(
            self.folder / "data", self.bench.rows, self.model_settings.cameras, self.model_settings.size
        )
        recipe = Recipe.of(settings, checkpoint="random", rig=self.model_settings.rig, size=self.model_settings.size)
        plan = make_plan(
            self.folder / "results", ShardIndex.scan(data), recipe, slice_size=settings.slice, codec=settings.codec
        )

        def sampler(images: NDArray[np.uint8], seeds: list[int]) -> NDArray[np.uint8]:
            return self.pipeline(images, seeds, settings.steps, settings.guidance, sampler=settings.sampler)

        events = EventLog(self.folder / "events.jsonl")

        def work() -> None:
            run_worker(plan.folder, sampler, "bench", lambda: False, settings=settings, events=events)

        took = ceiling.seconds(work, self.device, 1)
        found = report.speed(self.bench.rows, took, self.tflop, self.ceiling)
        ends = [event["time"] for event in events.read() if event["kind"] == "slice"]
        if len(ends) > 1:
            rest = self.bench.rows - min(settings.slice, self.bench.rows)
            found["steady"] = report.speed(rest, ends[-1] - ends[0], self.tflop, self.ceiling)
        return found

    def _exact(self, pipeline: MultiViewPipeline) -> NDArray[np.uint8]:
        """Views of the first pictures, eager in float32."""
        some = self.pictures[:_COMPARED]
        return pipeline(
            some, range(len(some)), self.settings.steps, self.settings.guidance, sampler=self.settings.sampler
        )

    def _numerics(self) -> Figures:
        """Signal-to-noise ratio in dB of the views against ``exact``, and the deviation of those."""
        assert self.exact is not None
        views = self.pipeline(
            self.pictures[:_COMPARED], range(len(self.exact)), self.settings.steps, self.settings.guidance,
            sampler=self.settings.sampler,
        )  # fmt: skip
        error = float(np.square(views.astype(np.float64) - self.exact).mean())
        return {
            "psnr_against_float32": 10 * math.log10(255**2 / error) if error else math.inf,
            "deviation_of_the_views": float(self.exact.std()),
        }

    def _peer(self) -> Figures:
        """The public pipeline's arithmetic, one picture a call."""
        model = self.pipeline.model
        if not isinstance(model.space, KLSpace):
            return {"left_out": "this model has no public pipeline"}
        peer = PublicPipeline(self.device, model.vision_encoder)
        asked: tuple[Any, ...] = (self.model_settings.size, self.model_settings.condition_size, self.settings.steps,
                                  self.settings.guidance)  # fmt: skip
        ceiling.seconds(lambda: peer(asked[0], asked[1], 2, asked[3]), self.device, 1)
        took = ceiling.seconds(lambda: peer(*asked), self.device, 2)
        return {"samples_per_s": 1 / took, "seconds_per_sample": took}

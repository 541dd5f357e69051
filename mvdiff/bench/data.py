"""How fast the feed of training is by itself: read, checked, varied, laid out, with nothing to wait for it."""

import time
from dataclasses import replace
from pathlib import Path

from mvdiff.bench import subject
from mvdiff.bench.report import Figures
from mvdiff.bench.settings import BenchSettings
from mvdiff.model.emulation import Emulation
from mvdiff.model.memory import empty_model
from mvdiff.model.settings import ModelSettings
from mvdiff.shard import ShardDataset
from mvdiff.train.draw import Chance
from mvdiff.train.feed import Feed
from mvdiff.train.order import Batches
from mvdiff.train.settings import TrainSettings
from mvdiff.train.sources import Sources


def measure(settings: TrainSettings, model_settings: ModelSettings, bench: BenchSettings, folder: Path) -> Figures:
    """Samples/s of ``settings.readers`` threads: of the shard alone, row after row, and of whole batches.

    Nothing is taken from the memory that a run may keep samples in (``settings.cache``): every row is read.
    """
    steps = bench.warmup + bench.repeats
    settings = replace(settings, batch=settings.micro_batch, steps=steps, epochs=None, prior_share=0.0, cache=0)
    path = subject.shard(folder / "data", bench.rows, model_settings.cameras, model_settings.size)
    dataset = ShardDataset(path)
    start = time.perf_counter()
    for row in range(len(dataset)):
        dataset[row]
    alone = len(dataset) / (time.perf_counter() - start)
    with Emulation():
        model = empty_model(model_settings)
    sources = Sources.open(path, None, None)
    chance = Chance.of(settings, model.num_train_timesteps, model.noise_shapes)
    feed = Feed(
        sources, Batches(sources, settings), chance, settings, model.sight, model_settings.cameras, 0, 1,
        subject.refuse,
    )  # fmt: skip
    with feed:
        for step in range(bench.warmup):
            feed.take(step)
        start = time.perf_counter()
        for step in range(bench.warmup, steps):
            feed.take(step)
        took = time.perf_counter() - start
    return {
        "readers": settings.readers,
        "rows": bench.rows,
        "one_thread_reading_samples_per_s": alone,
        "feed_samples_per_s": bench.repeats * settings.batch / took,
    }

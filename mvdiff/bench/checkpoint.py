"""What a checkpoint costs: how long training waits for it, how long it is written, and read again."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from mvdiff.bench import ceiling, report, subject
from mvdiff.bench.report import Figures
from mvdiff.bench.settings import BenchSettings
from mvdiff.model.settings import ModelSettings
from mvdiff.train import record
from mvdiff.train.checkpoint import CheckpointStore, Keep
from mvdiff.train.settings import TrainSettings
from mvdiff.train.sources import Sources
from mvdiff.train.state import TrainingState


def measure(settings: TrainSettings, model_settings: ModelSettings, bench: BenchSettings, folder: Path) -> Figures:
    """Seconds of each part; ``blocked`` is what a training step waits for, first and later, the rest is behind it.

    ``pinned`` is how long memory for the copy takes to be had, behind the first steps of a run.

    ``folder`` should lie on the disk that checkpoints go to.
    """
    device = subject.device()
    settings = replace(settings, steps=1, epochs=None)
    state = TrainingState(subject.model(model_settings, device), settings, device)
    for weight in state.trained.values():
        weight.grad = torch.zeros_like(weight)
    state.advance()
    begun = time.perf_counter()
    snapshot = state.snapshot()
    snapshot.ready()
    pinned = time.perf_counter() - begun

    def timed(work: Callable[[], object]) -> float:
        return ceiling.seconds(work, device, 1)

    first = timed(lambda: snapshot.take(1, []))
    later = [timed(lambda: snapshot.take(1, [])) for _ in range(bench.repeats)]
    sources = Sources.open(subject.shard(folder / "data", 1, model_settings.cameras, model_settings.size), None, None)
    content = record.describe(settings, model_settings, sources, None)
    store = CheckpointStore(folder / "checkpoints", lambda line: None)
    path = store.path(1)
    written = timed(
        lambda: store.save(1, lambda part: snapshot.write(part, content, 1.0, lambda name: None), Keep(last=1))
    )
    start = time.perf_counter()
    TrainingState.read(path, settings, model_settings, device)
    ceiling.finish(device)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {
        **report.surroundings(device),
        "gib": size / 2**30,
        "pinned_s": pinned,
        "blocked_first_s": first,
        "blocked_later_s": sum(later) / len(later),
        "written_s": written,
        "read_s": time.perf_counter() - start,
    }

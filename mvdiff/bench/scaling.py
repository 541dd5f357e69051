"""How training scales: the same step on one process and on several of this machine, one a GPU or one a CPU core."""

import json
import multiprocessing
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mvdiff.bench import training
from mvdiff.bench.report import Figures
from mvdiff.bench.settings import BenchSettings
from mvdiff.model.settings import ModelSettings
from mvdiff.train.settings import TrainSettings
from mvdiff.train.world import World

_HERE = "127.0.0.1"


def measure(
    settings: TrainSettings,
    model_settings: ModelSettings,
    bench: BenchSettings,
    folder: Path,
    tell: Callable[[str], None],
) -> Figures:
    """Figures of one rank, then of ``bench.ranks``; ``times`` is how much faster these are, ``efficiency`` per rank.

    Each rank passes ``settings.micro_batch`` samples a step. Raises ``ChildProcessError`` where a rank fails.
    """
    found: Figures = {}
    for ranks in (1, bench.ranks):
        tell(f"{ranks} ranks")
        found[f"ranks_{ranks}"] = _together(ranks, folder / str(ranks), settings, model_settings, bench)
    one, all_ = (found[f"ranks_{ranks}"]["step"]["samples_per_s"] for ranks in (1, bench.ranks))
    # the figures of a run are one rank's
    return found | {"times": bench.ranks * all_ / one, "efficiency": all_ / one}


def _together(ranks: int, folder: Path, *asked: Any) -> Figures:
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind((_HERE, 0))
        port = free.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    started = [spawn.Process(target=_rank, args=(rank, ranks, port, folder, *asked)) for rank in range(ranks)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    failed = [rank for rank, process in enumerate(started) if process.exitcode]
    if failed:
        raise ChildProcessError(f"rank {failed[0]} of {ranks} failed, see above")
    return json.loads((folder / "figures.json").read_text())


def _rank(
    rank: int,
    ranks: int,
    port: int,
    folder: Path,
    settings: TrainSettings,
    model_settings: ModelSettings,
    bench: BenchSettings,
) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    world = World(rank, ranks, rank, _HERE, port)
    found = training.measure(settings, model_settings, bench, folder, world, partial(print, flush=True))
    if rank == 0:
        (folder / "figures.json").write_text(json.dumps(found))

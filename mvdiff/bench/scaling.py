"""How training and generation scale: the same work by one process and by several, one a GPU or one a CPU core."""

import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from mvdiff.bench import generation, training
from mvdiff.bench.report import Figures
from mvdiff.bench.settings import TRAINING, BenchSettings
from mvdiff.generate.settings import GenerateSettings
from mvdiff.model.settings import ModelSettings
from mvdiff.train.settings import TrainSettings
from mvdiff.train.world import World

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_HERE = "127.0.0.1"
_PATIENCE_S = 1200.0
_LOOK_S = 0.05


@dataclass(frozen=True)
class Subject:
    """What is measured, whatever the number of processes."""

    training: TrainSettings
    generation: GenerateSettings
    model: ModelSettings
    bench: BenchSettings


@dataclass(frozen=True)
class Gate:
    """Where workers that know nothing of one another wait until ``count`` of them are ready; ``folder`` is there."""

    folder: Path
    count: int

    def enter(self, who: int) -> None:
        """Return when all have come.

        Raises:
            TimeoutError: the others did not come within 20 minutes.
        """
        (self.folder / f"ready-{who}").touch()
        deadline = time.monotonic() + _PATIENCE_S
        while sum(1 for _ in self.folder.glob("ready-*")) < self.count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"fewer than {self.count} workers were ready after {_PATIENCE_S:.0f} s")
            time.sleep(_LOOK_S)


def rank(subject: Subject, folder: Path, world: World, tell: Callable[[str], None]) -> Figures:
    """What one rank of ``world`` finds of training; each passes ``train.micro_batch`` samples a step."""
    return training.measure(subject.training, subject.model, subject.bench, folder, world, tell)


def worker(subject: Subject, folder: Path, gate: Gate, who: int, tell: Callable[[str], None]) -> Figures:
    """What worker ``who`` finds of generation, all of ``gate`` working at the same time."""
    return generation.worker(subject.generation, subject.model, subject.bench, folder, tell, partial(gate.enter, who))


def compared(found: Mapping[str, Mapping[int, Sequence[Figures]]]) -> Figures:
    """By part, figures of one process and of several (each one's), and what these are worth.

    ``times``: how much faster several are than one; ``efficiency``: that by process.
    """
    answer: Figures = {}
    for part, runs in found.items():
        rates = {count: _rate(part, count, each) for count, each in runs.items()}
        one, several = min(rates), max(rates)
        times = rates[several] / rates[1]
        answer[part] = {
            **{f"of_{count}": {"samples_per_s": rates[count], "first": runs[count][0]} for count in (one, several)},
            "times": times,
            "efficiency": times / several,
        }
    return answer


def measure(subject: Subject, folder: Path, tell: Callable[[str], None]) -> Figures:
    """``compared`` figures of processes of this machine. Raises ``ChildProcessError`` where one fails."""
    found: dict[str, dict[int, list[Figures]]] = {}
    for part in subject.bench.parts:
        for count in (1, subject.bench.ranks):
            tell(f"{part}, {count} at once")
            found.setdefault(part, {})[count] = _together(part, count, folder / f"{part}-{count}", subject)
    return compared(found)


def _rate(part: str, count: int, each: Sequence[Figures]) -> float:
    """Samples/s of all processes together: ranks step together, workers do not."""
    if part == TRAINING:
        return count * each[0]["step"]["samples_per_s"]
    return sum(one["worker"]["samples_per_s"] for one in each)


def _together(part: str, count: int, folder: Path, subject: Subject) -> list[Figures]:
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind((_HERE, 0))
        port = free.getsockname()[1]
    gpus = _gpus()
    spawn = multiprocessing.get_context("spawn")
    started = [
        spawn.Process(target=_process, args=(part, index, count, port, gpus, folder, subject)) for index in range(count)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    failed = [index for index, process in enumerate(started) if process.exitcode]
    if failed:
        raise ChildProcessError(f"process {failed[0]} of {count} failed, see above")
    return [json.loads((folder / f"figures-{index}.json").read_text()) for index in range(count)]


def _gpus() -> list[str]:
    """Names of the GPUs that this process sees."""
    given = [name for name in os.environ.get(_VISIBLE, "").split(",") if name]
    return given or [str(number) for number in range(torch.cuda.device_count())]


def _process(part: str, index: int, count: int, port: int, gpus: list[str], folder: Path, subject: Subject) -> None:
    if gpus:
        # what one compiles for its first GPU is of use to the others if they call theirs so too
        os.environ[_VISIBLE] = gpus[index % len(gpus)]
    tell = partial(print, flush=True)
    if part == TRAINING:
        found = rank(subject, folder, World(index, count, index, _HERE, port), tell)
    else:
        found = worker(subject, folder / str(index), Gate(folder, count), index, tell)
    (folder / f"figures-{index}.json").write_text(json.dumps(found))

"""One process of a measurement, as a queue starts it: measures its part and leaves its figures."""

import os
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from submitit.helpers import DelayedSubmission

from jobs.compose import settings
from jobs.runfolder import JobFolder
from jobs.task import QUIET
from mvdiff.durable import write_json
from mvdiff.events import EventLog
from mvdiff.generate.settings import GenerateSettings
from mvdiff.model.settings import ModelSettings
from mvdiff.train.settings import TrainSettings
from slurm.gpu import take_own
from slurm.place import Place, here
from slurm.rendezvous import meet
from slurm.words import BEGAN, Words

if TYPE_CHECKING:
    from mvdiff.bench.scaling import Subject


class Measurement:
    """The callable handed to submitit, as ``jobs.task.Task`` is for jobs."""

    def __init__(self, folder: Path, part: str, count: int) -> None:
        self.folder, self.part, self.count = str(folder), part, count

    def checkpoint(self, worker: int = 0) -> DelayedSubmission:
        """Called by submitit's own handler when the job is warned: there is nothing to save, it starts again."""
        return DelayedSubmission(self, worker)

    def __call__(self, worker: int = 0) -> None:
        os.umask(0o077)
        os.environ.update(QUIET)
        place = here()
        folder = JobFolder.at(Path(self.folder))
        Words(folder.logs, place.job_id, place.restart).say(BEGAN)
        events = EventLog(folder.events / f"{place.job_id}-{place.rank}.jsonl")
        who = {"job_id": place.job_id, "rank": place.rank}
        events.write("task started", node=place.node, pid=os.getpid(), restart=place.restart, **who)
        try:
            self._measure(folder, place, worker)
        except Exception as error:
            events.write(
                "task failed", **who, error=f"{type(error).__name__}: {error}", traceback=traceback.format_exc()
            )
            raise
        events.write("task finished", **who)

    def _measure(self, folder: JobFolder, place: Place, worker: int) -> None:
        take_own(place)

        from mvdiff.bench import scaling
        from mvdiff.bench.settings import TRAINING
        from mvdiff.train.world import World

        asked = subject(folder.config())
        tell: Callable[[str], None] = partial(print, flush=True)
        with tempfile.TemporaryDirectory(prefix="mvdiff-bench-") as name:
            if self.part == TRAINING:
                met = meet(folder.logs, place)
                world = World(place.rank, place.world_size, place.local_rank, met.address, met.port, met.listener)
                found, index = scaling.rank(asked, Path(name), world, tell), place.rank
            else:
                gate = scaling.Gate(figures(folder, self.part, self.count), self.count)
                found, index = scaling.worker(asked, Path(name), gate, worker, tell), worker
        write_json(figures(folder, self.part, self.count) / f"{index}.json", found)


def subject(config: DictConfig) -> "Subject":
    """What ``config`` asks to be measured."""
    from mvdiff.bench.scaling import Subject
    from mvdiff.bench.settings import BenchSettings

    return Subject(
        settings(TrainSettings, config.train, "train"),
        settings(GenerateSettings, config.generate, "generate"),
        settings(ModelSettings, config.model, "model"),
        settings(BenchSettings, config.bench, "bench"),
    )


def figures(folder: JobFolder, part: str, count: int) -> Path:
    """Where the processes of a part leave what they found."""
    return folder.path / "figures" / f"{part}-{count}"

"""One process of a canary, as a queue starts it: measures its part and leaves a report."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from submitit.helpers import DelayedSubmission

from jobs.runfolder import JobFolder
from jobs.task import QUIET
from slurm.canary import clock, commands, environment, filesystem, gpu
from slurm.canary.report import Reports
from slurm.canary.warning import Ear
from slurm.canary.wire import Wire
from slurm.deadline import Deadline
from slurm.place import Place, here
from slurm.rendezvous import meet
from slurm.requeue import come_back
from slurm.words import BEGAN, Words

HEAVY = "torch"
_AFTER_END_S = 20.0
"""How long past the time limit a warning is waited for."""


class Canary:
    """The callable handed to submitit, as ``jobs.task.Task`` is for jobs."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = str(folder), name

    def checkpoint(self, worker: int = 0) -> DelayedSubmission:
        """Called by submitit's own handler if a signal comes before ours stands."""
        return DelayedSubmission(self, worker)

    def __call__(self, worker: int = 0) -> None:
        ear = Ear()
        os.umask(0o077)
        os.environ.update(QUIET)
        place = here()
        folder = JobFolder.at(Path(self.folder))
        words = Words(folder.logs, place.job_id, place.restart)
        words.say(BEGAN)
        _Bird(folder, place, ear, worker).sing(self.name)


class _Bird:
    def __init__(self, folder: JobFolder, place: Place, ear: Ear, worker: int) -> None:
        self._folder, self._place, self._ear, self._worker = folder, place, ear, worker
        self._reports = Reports(reports(folder))
        self._config = folder.config()

    def sing(self, name: str) -> None:
        match name:
            case "nodes":
                self._nodes(self._config)
            case "signal":
                self._signal()
            case "requeue":
                self._tell("requeue", self._place.restart, at=time.time())
                if self._place.restart == 0:
                    come_back(self._place, self._folder.logs, None, wait=False)
            case "array":
                self._tell("array", self._worker, worker=self._worker)
            case "preemption":
                self._preemption()
            case "taker":
                pass

    def _tell(self, part: str, who: int, **figures: Any) -> None:
        place = self._place
        common = {"rank": place.rank, "node": place.node, "restart": place.restart}
        self._reports.write(part, who, {**common, **figures})

    def _nodes(self, config: DictConfig) -> None:
        place, parts = self._place, config.parts

        def part(name: str, measure: Callable[[], dict[str, Any]]) -> None:
            if name in parts:
                self._tell(name, place.rank, **measure())

        part("commands", commands.measure)
        # before anything else imports it
        heavy = HEAVY if "environment" in parts else None
        part("environment", lambda: environment.measure(heavy))
        part("gpus", lambda: {**gpu.measure(), "cuda": _usable()})
        if {"clock", "filesystem"} & set(parts):
            with Wire(self._folder.logs, place) as wire:
                part("clock", lambda: clock.measure(wire))
                part("filesystem", lambda: self._folders(wire, config.folders))
        part("network", self._all_reduce)

    def _folders(self, wire: Wire, more: list[str]) -> dict[str, Any]:
        me = f"rank-{self._place.rank}"
        own = self._folder.path / "tried"
        found = {"own": filesystem.measure(wire, own, me)}
        found |= {path: {"there": filesystem.reachable(Path(path))} for path in more}
        return {"folders": found}

    def _all_reduce(self) -> dict[str, Any]:
        from mvdiff.train import allreduce
        from mvdiff.train.world import World

        place = self._place
        logs = self._folder.path / "meeting"
        try:
            where = meet(logs, place)
            world = World(place.rank, place.world_size, place.local_rank, where.address, where.port, where.listener)
            return allreduce.measure(world)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}

    def _signal(self) -> None:
        deadline = Deadline.of(self._place, 60 * self._config.cluster.time_min)
        ends = time.time() + deadline.left()
        self._ear.wait(ends + _AFTER_END_S)
        # a SIGTERM that came first may be followed by the warning
        self._tell("signal", self._place.rank, heard=self._ear.heard, ends=ends)

    def _preemption(self) -> None:
        place, began = self._place, time.time()
        if place.restart:
            self._tell("preemption", place.restart, heard={}, at=began, last=began)
            return
        # until the kill, or for so long as the job was given
        while True:
            with suppress(OSError):
                self._tell("preemption", 0, heard=self._ear.heard, at=began, last=time.time())
            time.sleep(0.2)


def reports(folder: JobFolder) -> Path:
    """Where the canaries of a folder tell what they saw."""
    return folder.path / "reports"


def _usable() -> int:
    """How many GPUs torch can use in this process."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0

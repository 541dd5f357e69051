"""What a storm hits: a small data set, a small checkpoint, and a generation left alone whose bytes are the truth."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.runfolder import Run, source_root

SMALL = [
    "model.size=32", "model.new.patch=4", "model.new.widths=[16,32]", "model.new.latent_channels=8",
    "model.new.head_width=16", "model.new.context_width=16", "model.new.condition_grid=4",
]  # fmt: skip
RECIPE = ["generate.steps=20", "generate.batch=2", "generate.slice=4"]
QUICK = ["generate.lease_seconds=6", "generate.heartbeat_seconds=1", "generate.poll_seconds=0.5"]
HELD_OUT = 8

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Lab:
    """A working directory with the run ``lab`` (data and checkpoint) and, once asked for, the run ``calm``."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, samples: int, shard_samples: int = 50) -> "Lab":
        """``samples`` mice of 32 pixels (a multiple of 4) and a checkpoint of three steps, through the command line."""
        lab = cls(folder)
        lab.good(
            "synth", "run=lab", f"samples={samples + HELD_OUT}", "size=32", f"held_out={HELD_OUT}",
            f"shard_samples={shard_samples}", "cluster=here",
        )  # fmt: skip
        lab.good(
            "train", "run=lab", "data=runs/lab/shards/heldout", "train=demo", "train.steps=3", "train.batch=4",
            "train.validation.every=0", *SMALL, "cluster=here",
        )  # fmt: skip
        return lab

    @property
    def data(self) -> Path:
        """The shards to generate from."""
        return self.folder / "runs" / "lab" / "shards" / "train"

    def run(self, name: str) -> Run:
        """The run ``name`` of this working directory."""
        return Run(self.folder / "runs" / name)

    def results(self, name: str) -> Path:
        """The only result set of the run ``name``."""
        (found,) = self.run(name).results.glob("*/set.json")
        return found.parent

    def words(self, name: str, *more: str, data: Path | None = None) -> list[str]:
        """The command that generates the run ``name`` from ``data``, the lab's own unless told otherwise."""
        checkpoint = "checkpoint=runs/lab/checkpoints/step-00000003"
        return ["generate", f"run={name}", f"data={data or self.data}", checkpoint, *RECIPE, *QUICK, *more]

    def calm(self, *more: str) -> float:
        """Generate the run ``calm`` with nobody in the way; how many seconds that took."""
        began = time.monotonic()
        self.good(*self.words("calm", "cluster=here", *more))
        return time.monotonic() - began

    def start(self, *words: str, environment: Mapping[str, str] = os.environ) -> "subprocess.Popen[str]":
        """``mvdiff`` with ``words`` as a person would start it, in this working directory."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "jobs.cli", *words],
            cwd=self.folder,
            env={**environment, "PYTHONPATH": str(source_root())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def mvdiff(self, *words: str, environment: Mapping[str, str] = os.environ) -> Done:
        """The same, to its end."""
        process = self.start(*words, environment=environment)
        try:
            out, err = process.communicate()
        finally:
            process.kill()
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def good(self, *words: str, environment: Mapping[str, str] = os.environ) -> Done:
        """The same, which must succeed."""
        done = self.mvdiff(*words, environment=environment)
        if done.returncode:
            raise RuntimeError(f"mvdiff {' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mvdiff.events import EventLog
from mvdiff.model.settings import ModelSettings
from mvdiff.rig import rig
from mvdiff.shard import Sample, ShardWriter
from mvdiff.train.settings import TrainSettings
from mvdiff.train.sources import Sources
from mvdiff.train.trainer import Folders, train
from mvdiff.train.world import World
from tests.mvdiff.model.conftest import tiny_values

SIZE = 32
CONFIGS = Path(__file__).parents[3] / "configs"


def make_sample(number: int) -> Sample:
    """A box of noise on white, differently coloured in each view."""
    chance = np.random.default_rng(number)
    views = np.full((6, SIZE, SIZE, 3), 255, np.uint8)
    views[:, 8:24, 8:24] = chance.integers(0, 255, (6, 16, 16, 3))
    mouse = rig("mouse")
    azimuth, elevation = np.float32(mouse.azimuth), np.float32(mouse.elevation)
    return Sample(
        f"sample-{number}", "one", views, None, mouse.w2c(), mouse.intrinsics(SIZE), azimuth, elevation
    )  # fmt: skip


def write_shard(path: Path, numbers: range) -> Path:
    with ShardWriter(path, size=SIZE, rig="mouse", codec="raw", with_alpha=False) as writer:
        for number in numbers:
            writer.append(make_sample(number))
        return writer.publish()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten samples in two shards."""
    folder = tmp_path_factory.mktemp("data")
    write_shard(folder / "a.h5", range(7))
    write_shard(folder / "b.h5", range(7, 10))
    return folder


def training_values() -> dict[str, Any]:
    """Settings of a run of seconds, as a configuration holds them."""
    values = yaml.safe_load((CONFIGS / "train" / "default.yaml").read_text())
    values |= {"steps": 6, "batch": 4, "micro_batch": 4, "learning_rate": 1e-3, "warmup_steps": 2, "log_every": 0}
    values |= {"save_every": 100, "reference_view": "random", "condition_drop": 0.3, "fit_samples": 4}
    values["validation"]["every"] = 0
    return values


@pytest.fixture(scope="session")
def settings() -> Callable[..., TrainSettings]:
    """``training_values`` with overrides; ``augment`` and ``validation`` may be given in part."""

    def build(**overrides: Any) -> TrainSettings:
        values = training_values()
        for key, value in overrides.items():
            values[key] = values[key] | value if isinstance(value, dict) else value
        return TrainSettings.read(values)

    return build


@pytest.fixture(scope="session")
def model_settings() -> ModelSettings:
    """The small model, smaller."""
    values = tiny_values() | {"size": SIZE, "condition_size": SIZE}
    values["new"] |= {"patch": 8, "latent_channels": 4, "widths": [16, 16], "attention": [False, True]}
    values["new"] |= {"head_width": 8, "norm_groups": 4, "context_tokens": 2, "context_width": 16, "condition_grid": 2}
    return ModelSettings.read(values)


class Run:
    """A run folder and the single process that trains in it."""

    def __init__(self, root: Path, data: Path, model_settings: ModelSettings) -> None:
        self.root, self.data, self.model_settings = root, data, model_settings
        self.checkpoints, self.validation, self.events = root / "checkpoints", root / "validation", root / "events"
        self.held_out: Path | None = None
        self.prior: Path | None = None
        self.lines: list[str] = []

    def train(
        self,
        settings: TrainSettings,
        stop_at: int | None = None,
        should_stop: Callable[[], bool] | None = None,
        **options: Any,
    ) -> str:
        """Train; the stop flag goes up at the ``stop_at``-th time it is looked at (from 0)."""
        looks = iter(range(1 << 30))
        return train(
            settings,
            self.model_settings,
            Sources.open(self.data, self.held_out, self.prior),
            Folders(self.checkpoints, self.validation, None),
            EventLog(self.events / "rank-0.jsonl"),
            self.lines.append,
            World(rank=0, world_size=1, local_rank=0, address="127.0.0.1", port=0),
            should_stop or (lambda: next(looks) == stop_at),
            **options,
        )


@pytest.fixture
def new_run(tmp_path: Path, data: Path, model_settings: ModelSettings) -> Callable[[str], Run]:
    """Run folders by name."""
    return lambda name: Run(tmp_path / name, data, model_settings)


@pytest.fixture
def run(new_run: Callable[[str], Run]) -> Run:
    return new_run("run")


@pytest.fixture
def another(new_run: Callable[[str], Run]) -> Run:
    """A second run folder, to compare with."""
    return new_run("another")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(mount)], capture_output=True)
    if done.returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


class Drill:
    """Runs of several processes, or ones that die: see ``drill.py``."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __call__(self, run: Run, settings: TrainSettings, world_size: int = 1, **faults: Any) -> list[dict[str, Any]]:
        """Train in ``world_size`` processes; what became of each rank: ``end``, ``error`` or ``signal``."""
        order = {
            "root": str(run.root), "data": str(run.data), "world_size": world_size,
            "held_out": run.held_out and str(run.held_out), "prior": run.prior and str(run.prior),
            "settings": asdict(settings), "model": run.model_settings.written(), **faults,
        }  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="session")
def drill() -> Iterator[Drill]:
    command = [sys.executable, str(Path(__file__).with_name("drill.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Drill(process)
        assert process.stdin is not None
        process.stdin.close()

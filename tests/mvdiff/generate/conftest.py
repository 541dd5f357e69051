"""Small shards, a sampler that is a pure function of image and seed, and a worker's settings for tests."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mvdiff.events import EventLog
from mvdiff.generate import GenerateSettings, Plan, Recipe, make_plan, run_worker
from mvdiff.generate.selection import choose
from mvdiff.rig import RIGS
from mvdiff.shard import Sample, ShardIndex, ShardReader, ShardWriter

SIZE = 16

SETTINGS = GenerateSettings(
    sampler="ddim", steps=2, guidance=1.0, guidance_rescale=0.0, guidance_interval=(0.0, 1.0), mixed_precision="no",
    seed=7, reference_view=0, batch=2, threads=1, compile=False, slice=4, codec="lz4", lease_seconds=60.0,
    heartbeat_seconds=20.0, poll_seconds=1.0, give_up_after=4,
)  # fmt: skip


def sample(number: int, size: int = SIZE) -> Sample:
    rng = np.random.default_rng(number)
    rig = RIGS["mouse"]
    return Sample(
        f"mouse-{number:03d}",
        f"session-{number // 4}",
        rng.integers(0, 256, (6, size, size, 3), np.uint8),
        None,
        rig.w2c(),
        rig.intrinsics(size),
        np.array(rig.azimuth, np.float32),
        np.array(rig.elevation, np.float32),
    )


def write_shard(path: Path, numbers: range, size: int = SIZE) -> Path:
    with ShardWriter(path, size=size, rig="mouse", codec="raw", with_alpha=False) as writer:
        for number in numbers:
            writer.append(sample(number, size))
        return writer.publish()


def noise_sampler(images: np.ndarray, seeds: list[int]) -> np.ndarray:
    """uint8[B H W 3] -> uint8[B 6 H W 3]; a row depends on its own image and seed alone."""
    views = [
        np.random.default_rng(seed).integers(0, 256, (6, *image.shape), np.uint8) ^ image
        for image, seed in zip(images, seeds, strict=True)
    ]
    return np.stack(views)


class Bench:
    """A data folder of 10 samples in two shards, a results folder, and ways to plan and work."""

    def __init__(self, folder: Path) -> None:
        self.data, self.results = folder / "data", folder / "results"
        self.recipe = Recipe.of(SETTINGS, checkpoint="c0ffee", rig="mouse", size=SIZE)
        write_shard(self.data / "a.h5", range(6))
        write_shard(self.data / "b.h5", range(6, 10))

    @staticmethod
    def hashes(folder: Path) -> dict[str, str]:
        """SHA-256 of every result shard's bytes."""
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("slice-*.h5"))}

    def add_data(self, name: str, numbers: range) -> None:
        write_shard(self.data / name, numbers)

    def change_data(self, name: str, sample_id: str) -> None:
        """Pack the shard ``name`` again with another picture under ``sample_id``."""
        path = self.data / name
        before = ShardReader(path)
        samples = [before.sample(row) for row in range(len(before))]
        path.unlink()
        with ShardWriter(path, size=SIZE, rig="mouse", codec="raw", with_alpha=False) as writer:
            for old in samples:
                writer.append(replace(old, views=255 - old.views) if old.sample_id == sample_id else old)
            writer.publish()

    def plan(
        self,
        results: Path | None = None,
        *,
        limit: int | None = None,
        ids: list[str] | None = None,
        shards: list[str] | None = None,
        **asked,
    ) -> Plan:
        index = ShardIndex.scan_readable(self.data, shards)
        return make_plan(
            results or self.results, index, asked.pop("recipe", self.recipe),
            slice_size=asked.pop("slice_size", SETTINGS.slice), codec=SETTINGS.codec,
            asked=choose(index, ids, limit)[0], **asked,
        )  # fmt: skip

    def work(
        self,
        plan: Plan,
        name: str = "w0",
        sampler: Callable = noise_sampler,
        should_stop: Callable[[], bool] = lambda: False,
        settings: dict | None = None,
        **injected,
    ) -> str:
        events = EventLog(plan.folder.parent / "events" / f"{name}.jsonl")
        return run_worker(
            plan.folder, sampler, name, should_stop,
            settings=replace(SETTINGS, **(settings or {})), events=events, **injected,
        )  # fmt: skip

    def work_one_batch(self, plan: Plan, name: str = "w0", sampler: Callable = noise_sampler) -> str:
        """Work until the sampler was called once, then stop."""
        called = False

        def watched(images: np.ndarray, seeds: list[int]) -> np.ndarray:
            nonlocal called
            called = True
            return sampler(images, seeds)

        return self.work(plan, name, watched, should_stop=lambda: called)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def calm(bench: Bench, tmp_path: Path) -> dict[str, str]:
    """Hashes of the result shards of one worker that nobody disturbs."""
    plan = bench.plan(tmp_path / "calm")
    assert bench.work(plan) == "done"
    return bench.hashes(plan.folder)


@pytest.fixture
def sampler() -> Callable:
    return noise_sampler


@pytest.fixture
def read_input() -> Callable[[str], Sample]:
    """The input sample of that id."""
    return lambda sample_id: sample(int(sample_id.removeprefix("mouse-")))


@pytest.fixture
def write_named(bench: Bench) -> Callable[[str, list[str]], Path]:
    """Add a shard of samples called so to the bench's data."""

    def write(name: str, ids: list[str]) -> Path:
        with ShardWriter(bench.data / name, size=SIZE, rig="mouse", codec="raw", with_alpha=False) as writer:
            for number, sample_id in enumerate(ids):
                writer.append(replace(sample(1000 + number), sample_id=sample_id))
            return writer.publish()

    return write


@pytest.fixture
def make_sample() -> Callable[[str], Sample]:
    """A sample called that."""
    return lambda sample_id: replace(sample(0), sample_id=sample_id)


@pytest.fixture
def failing(sampler):
    """Make a sampler that fails whenever one of the given seeds is in its batch."""

    def make(bad):
        def sample(images, seeds):
            if bad & set(seeds):
                raise FloatingPointError("no good")
            return sampler(images, seeds)

        return sample

    return make

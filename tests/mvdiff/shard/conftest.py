"""Samples and shards made on the spot."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mvdiff.rig import rig
from mvdiff.shard import Sample, ShardWriter

SIZE = 24


def make_sample(i: int, size: int = SIZE, with_alpha: bool = True) -> Sample:
    rng = np.random.default_rng(i)
    cameras = rig("mouse")
    return Sample(
        f"mouse-{i:04d}",
        f"cage-{i // 2}",
        rng.integers(0, 256, (6, size, size, 3), np.uint8),
        rng.integers(0, 256, (6, size, size), np.uint8) if with_alpha else None,
        cameras.w2c(),
        cameras.intrinsics(size),
        np.array(cameras.azimuth, np.float32),
        np.array(cameras.elevation, np.float32),
    )


def open_writer(path: Path, codec: str = "lz4", with_alpha: bool = True, size: int = SIZE, **attributes) -> ShardWriter:
    return ShardWriter(path, size=size, rig="mouse", codec=codec, with_alpha=with_alpha, attributes=attributes)


@pytest.fixture
def sample() -> Callable[..., Sample]:
    """``sample(i)``: a sample that is noise, a different one for each number."""
    return make_sample


@pytest.fixture
def writer() -> Callable[..., ShardWriter]:
    """``writer(path)``: a writer of samples as ``sample(i)`` gives them."""
    return open_writer


@pytest.fixture
def shard() -> Callable[..., Path]:
    """``shard(path, numbers)``: a published shard of those samples."""

    def publish(path: Path, numbers=range(3), **options) -> Path:
        with open_writer(path, **options) as writer:
            for i in numbers:
                writer.append(make_sample(i, writer.size, writer.with_alpha))
            return writer.publish()

    return publish


@pytest.fixture
def same() -> Callable[[Sample, Sample], bool]:
    """Whether two samples agree in every bit."""

    def compare(a: Sample, b: Sample) -> bool:
        return all(
            x is y is None or (np.array_equal(x, y) and np.asarray(x).dtype == np.asarray(y).dtype)
            for x, y in ((getattr(a, name), getattr(b, name)) for name in vars(a))
        )

    return compare

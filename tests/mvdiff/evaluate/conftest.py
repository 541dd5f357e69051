"""A painted body of three balls, seen by real cameras, and shards of such bodies."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mvdiff.evaluate.settings import EvaluateSettings
from mvdiff.rig import RIGS, camera_centre
from mvdiff.shard import Sample, ShardWriter

SIZE = 96
RIG = RIGS["mouse"]


def _body(number: int = 0, size: int = SIZE) -> Sample:
    """Three balls in general position; the colour of a surface point depends on the point alone, not on the camera."""
    rng = np.random.default_rng(number)
    centres = np.array([[0.05, 0.02, 0.0], [0.25, -0.1, 0.08], [-0.22, 0.12, -0.1]]) + rng.normal(0, 0.02, (3, 3))
    radii = np.array([0.17, 0.09, 0.11])
    paint = rng.uniform(40, 160, 3)
    w2c, intrinsics = RIG.w2c(), RIG.intrinsics(size)
    views = np.full((6, size, size, 3), 255, np.uint8)
    alpha = np.zeros((6, size, size), np.uint8)
    v, u = np.mgrid[:size, :size] + 0.5
    for k in range(6):
        eye = camera_centre(w2c[k])
        to_pixel = np.linalg.inv(intrinsics[k].astype(float)) @ np.stack([u.ravel(), v.ravel(), np.ones(size * size)])
        ray = w2c[k, :3, :3].T.astype(float) @ to_pixel
        ray /= np.linalg.norm(ray, axis=0)
        nearest = np.full(size * size, np.inf)
        for centre, radius in zip(centres, radii, strict=True):
            half = (eye - centre) @ ray
            inside = half**2 - np.sum((eye - centre) ** 2) + radius**2
            nearest = np.minimum(nearest, np.where(inside > 0, -half - np.sqrt(np.maximum(inside, 0)), np.inf))
        hit = np.isfinite(nearest)
        point = eye[:, None] + ray[:, hit] * nearest[hit]
        colour = paint[:, None] + 60 * np.sin(9 * point + np.arange(3)[:, None])
        views[k].reshape(-1, 3)[hit] = np.clip(colour, 0, 200).T.round()
        alpha[k].reshape(-1)[hit] = 255
    return Sample(
        f"body-{number:03d}", f"session-{number // 2}", views, alpha, w2c, intrinsics,
        np.array(RIG.azimuth, np.float32), np.array(RIG.elevation, np.float32),
    )  # fmt: skip


def _write(path: Path, samples: list[Sample], **attributes: str | int | float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with_alpha = samples[0].alpha is not None
    with ShardWriter(
        path, size=samples[0].size, rig="mouse", codec="raw", with_alpha=with_alpha, attributes=attributes
    ) as writer:
        for sample in samples:
            writer.append(sample)
        writer.publish()
    return path


def _generated(sample: Sample, noise: float = 4.0) -> Sample:
    """Views as a model gives them: the truth with noise, its background not quite white, and no alpha."""
    rng = np.random.default_rng(1)
    views = sample.views + rng.normal(0, noise, sample.views.shape)
    return replace(sample, views=np.clip(views, 0, 255).astype(np.uint8), alpha=None)


@pytest.fixture(scope="session")
def bodies() -> list[Sample]:
    return [_body(number) for number in range(10)]


@pytest.fixture
def settings() -> EvaluateSettings:
    return EvaluateSettings(train_samples=100, tile=24, page=3)


def _damage(path: Path, sample: Sample) -> None:
    """Flip one bit in the pixels of ``sample``, which are stored raw."""
    content = bytearray(path.read_bytes())
    middle = sample.views[3].tobytes()
    at = content.find(middle)
    assert at >= 0
    content[at + len(middle) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="session")
def body():
    return _body


@pytest.fixture(scope="session")
def write():
    return _write


@pytest.fixture(scope="session")
def generated():
    return _generated


@pytest.fixture(scope="session")
def damage():
    return _damage

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mvdiff.model.batch import TrainingBatch
from mvdiff.model.multiview import MultiViewModel
from mvdiff.model.settings import ModelSettings

SIZE = 32
TINY = Path(__file__).parents[3] / "configs" / "model" / "tiny.yaml"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw_pictures(seed: int, samples: int) -> np.ndarray:
    """uint8 [samples, 6, SIZE, SIZE, 3]: a coloured box on white, elsewhere in each view."""
    chance = np.random.default_rng(seed)
    views = np.full((samples, 6, SIZE, SIZE, 3), 255, np.uint8)
    for sample in views:
        colour = chance.integers(0, 200, 3)
        for k, view in enumerate(sample):
            left = 4 + 3 * k + int(chance.integers(-1, 2))
            view[8:24, left : left + 8] = colour
    return views


@pytest.fixture(scope="session")
def pictures() -> Callable[[int, int], np.ndarray]:
    return draw_pictures


@pytest.fixture(scope="session")
def settings() -> Callable[..., ModelSettings]:
    """The tiny model, smaller, with overrides."""

    def build(**overrides: Any) -> ModelSettings:
        values = yaml.safe_load(TINY.read_text())
        values |= {"size": SIZE, "patch": 8, "latent_channels": 6, "widths": [16, 16], "head_width": 8}
        values |= {"condition_grid": 2, "context_width": 16, "norm_groups": 4}
        return ModelSettings.read(values | overrides)

    return build


@pytest.fixture
def model(settings: Callable[..., ModelSettings]) -> MultiViewModel:
    return MultiViewModel.create(settings(), iter(draw_pictures(0, 4)), seed=0).eval()


@pytest.fixture(scope="session")
def batch() -> Callable[..., TrainingBatch]:
    """A batch for ``model`` in which everything is drawn from ``seed``."""

    def build(model: MultiViewModel, samples: int = 2, seed: int = 1) -> TrainingBatch:
        generator = torch.Generator().manual_seed(seed)
        views = torch.from_numpy(draw_pictures(seed, samples))
        rig = model.settings.cameras
        return TrainingBatch(
            sample_ids=[f"sample-{k}" for k in range(samples)],
            views=views,
            reference=views[:, 0],
            azimuth=torch.tensor(rig.azimuth).repeat(samples, 1),
            elevation=torch.tensor(rig.elevation).repeat(samples, 1),
            timestep=torch.randint(1, model.num_train_timesteps, (samples,), generator=generator),
            noise=torch.randn(samples, model.noise_rows, *model.latent_shape(SIZE), generator=generator),
            dropped=torch.zeros(samples, dtype=torch.bool),
        )

    return build

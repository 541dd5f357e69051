from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from mvdiff.model.batch import TrainingBatch
from mvdiff.model.build import create
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


def tiny_values() -> dict[str, Any]:
    """What ``configs/model/tiny.yaml`` says."""
    values = OmegaConf.to_container(OmegaConf.load(TINY), resolve=True)
    assert isinstance(values, dict)
    return values


@pytest.fixture(scope="session")
def settings() -> Callable[..., ModelSettings]:
    """The tiny model, smaller, with overrides."""

    def build(**overrides: Any) -> ModelSettings:
        values = tiny_values()
        values |= {"size": SIZE, "condition_size": SIZE}
        values["new"] |= {"patch": 8, "latent_channels": 6, "widths": [16, 16], "head_width": 8}
        values["new"] |= {"condition_grid": 2, "context_width": 16, "norm_groups": 4}
        for key, value in overrides.items():
            (values["new"] if key in values["new"] else values)[key] = value
        return ModelSettings.read(values)

    return build


def awake(model: MultiViewModel) -> MultiViewModel:
    """``model`` with a camera projection that is not zero, as it is after some training."""
    assert model.camera is not None
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.camera.projection.parameters():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    return model.eval()


@pytest.fixture
def model(settings: Callable[..., ModelSettings]) -> MultiViewModel:
    return awake(create(settings(), iter(draw_pictures(0, 4)), seed=0))


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
            glance=torch.zeros(samples, 0, 0, 3, dtype=torch.uint8),
            cameras=torch.from_numpy(rig.relative(0)).repeat(samples, 1, 1),
            timestep=torch.randint(1, model.num_train_timesteps, (samples,), generator=generator),
            noise={
                name: torch.randn(samples, *shape, generator=generator) for name, shape in model.noise_shapes.items()
            },
            dropped=torch.zeros(samples, dtype=torch.bool),
        )

    return build


@pytest.fixture(scope="session")
def large() -> Callable[..., ModelSettings]:
    """Settings of a model that starts from the small published-layout weights in a folder, with overrides."""

    def build(folder: Path, **overrides: Any) -> ModelSettings:
        values: dict[str, Any] = {
            "name": "large", "pretrained": str(folder), "pretrained_rig": "mouse", "mapping": None,
            "accept_half": False, "rig": "mouse", "size": 64, "condition_size": 64, "layout": "views",
            "camera": "adaln", "reference": "noised", "prompt": "text",
            "prompt_text": "a laboratory mouse, white background, high quality", "sampler": "euler_ancestral",
            "steps": 4, "guidance": 4.0, "new": None,
        }  # fmt: skip
        return ModelSettings.read(values | overrides)

    return build

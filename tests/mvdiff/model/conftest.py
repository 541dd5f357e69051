import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from mvdiff.model.batch import TrainingBatch
from mvdiff.model.build import create
from mvdiff.model.compilation import CompileCache
from mvdiff.model.multiview import MultiViewModel
from mvdiff.model.settings import ModelSettings
from tests.mvdiff.model.published import write_stable_diffusion, write_zero123plus

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


def smooth_picture(seed: int, side: int = 64) -> np.ndarray:
    """uint8 [side, side, 3]: coloured squares below a strip of white."""
    chance = np.random.default_rng(seed)
    coarse = chance.integers(0, 256, (4, 4, 3)).astype(np.uint8).repeat(side // 4, 0).repeat(side // 4, 1)
    coarse[: side // 8] = 255
    return coarse


def large_batch(model: MultiViewModel, samples: int = 2, seed: int = 1) -> TrainingBatch:
    """A batch of ``smooth_picture``s for a model of published layout, in which everything is drawn from ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    settings = model.settings
    views = np.stack(
        [[smooth_picture(10 * s + k, settings.size) for k in range(6)] for s in range(samples)]
    )  # [B, 6, H, W, 3]
    reference, glance = (np.stack(part) for part in zip(*(model.sight(sample[0]) for sample in views), strict=True))
    return TrainingBatch(
        sample_ids=[f"sample-{k}" for k in range(samples)],
        views=torch.from_numpy(views),
        reference=torch.from_numpy(reference),
        glance=torch.from_numpy(glance),
        cameras=torch.from_numpy(settings.cameras.relative(0)).repeat(samples, 1, 1),
        timestep=torch.randint(1, model.num_train_timesteps, (samples,), generator=generator),
        noise={name: torch.randn(samples, *shape, generator=generator) for name, shape in model.noise_shapes.items()},
        dropped=torch.zeros(samples, dtype=torch.bool),
    )


@pytest.fixture(scope="session")
def zero123plus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random weights in the published layout of Zero123++."""
    return write_zero123plus(tmp_path_factory.mktemp("published") / "zero123plus")


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random weights in the published layout of Stable Diffusion 2.1."""
    return write_stable_diffusion(tmp_path_factory.mktemp("published") / "sd21")


@pytest.fixture(scope="session")
def start(large: Callable[..., ModelSettings], zero123plus: Path) -> Callable[..., MultiViewModel]:
    """A model that starts from the small published weights, with overrides of its settings."""

    def build(folder: Path = zero123plus, seed: int = 0, **overrides: Any) -> MultiViewModel:
        return create(large(folder, **overrides), [smooth_picture(0)[None]], seed).eval()

    return build


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This node's own disk, empty, and a process that has compiled nothing."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path))  # put back, whatever the test sets
    torch._dynamo.reset()
    yield tmp_path
    torch._dynamo.reset()


@pytest.fixture
def cache(disk: Path) -> CompileCache:
    return CompileCache.of(torch.device("cpu"), {"size": 1})

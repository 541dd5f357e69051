"""The tile layout against an independent plain implementation of the published pipeline (``plain.py``)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mvdiff.model.build import create
from mvdiff.model.layout import tile, untile
from mvdiff.model.noise import SampleNoise, blank_noise
from mvdiff.model.pipeline import MultiViewPipeline
from mvdiff.model.sampler import Sampling
from mvdiff.model.settings import ModelSettings
from tests.mvdiff.model.plain import plain_zero123plus
from tests.mvdiff.model.published import write_zero123plus

SIDE = 64
PROMPT = "a laboratory mouse, white background, high quality"
STEPS, GUIDANCE = 4, 4.0


def picture(seed: int, side: int = SIDE) -> np.ndarray:
    """uint8 [side, side, 3]: smooth colours on white."""
    chance = np.random.default_rng(seed)
    coarse = chance.integers(0, 256, (4, 4, 3)).astype(np.uint8).repeat(side // 4, 0).repeat(side // 4, 1)
    coarse[: side // 8] = 255
    return coarse


def noise_of(model, seed: int, steps: int) -> dict[str, torch.Tensor]:
    """What our sampler draws for one sample, as the plain implementation takes it."""
    shapes = model.noise_shapes
    own, blanks = SampleNoise([seed]), blank_noise()
    folded = {name: tile(own.draw(name, shapes["views"]), model.slots)[0] for name in ("views",)}
    ancestral = [tile(own.draw("ancestral", shapes["views"]), model.slots)[0] for _ in range(steps)]
    return folded | {
        "reference_posterior": own.draw("reference_posterior", shapes["reference_posterior"])[0],
        "blank_posterior": blanks.draw("reference_posterior", shapes["reference_posterior"])[0],
        "reference": torch.stack([own.draw("reference", shapes["reference"])[0] for _ in range(steps)]),
        "blank_reference": torch.stack([blanks.draw("reference", shapes["reference"])[0] for _ in range(steps)]),
        "ancestral": torch.stack(ancestral),
    }


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zero123plus(tmp_path_factory.mktemp("zero123plus"))


@pytest.fixture(scope="module")
def pipeline(weights: Path, large: Callable[..., ModelSettings]) -> MultiViewPipeline:
    settings = large(weights, layout="tile", camera="none")
    return MultiViewPipeline(create(settings, [picture(0)[None]], 0))


def test_latents_and_pictures_equal_the_plain_implementations(weights, pipeline):
    expected = plain_zero123plus(
        weights, picture(1), noise_of(pipeline.model, 7, STEPS), prompt=PROMPT, steps=STEPS, guidance=GUIDANCE
    )
    sampling = Sampling("euler_ancestral", STEPS, GUIDANCE)
    with torch.inference_mode():
        latents = pipeline.sample([picture(1)], [7], sampling)
        views = pipeline.model.space.decode(latents)
    tiled = tile(latents, pipeline.model.slots)[0]
    assert (tiled - expected["latents"]).abs().max() < 1e-4
    assert expected["latents"].std() > 0.5
    image = tile(views.permute(0, 1, 4, 2, 3), pipeline.model.slots)[0].permute(1, 2, 0).numpy()
    assert np.abs(image.astype(int) - expected["image"].astype(int)).max() <= 1


def test_a_batch_equals_the_plain_implementation_sample_by_sample(weights, pipeline):
    seeds = [3, 4, 5]
    with torch.inference_mode():
        latents = pipeline.sample([picture(s) for s in seeds], seeds, Sampling("euler_ancestral", STEPS, GUIDANCE))
    for k, seed in enumerate(seeds):
        expected = plain_zero123plus(
            weights, picture(seed), noise_of(pipeline.model, seed, STEPS), prompt=PROMPT, steps=STEPS, guidance=GUIDANCE
        )
        assert (tile(latents, pipeline.model.slots)[k] - expected["latents"]).abs().max() < 1e-4


def test_a_smaller_picture_is_enlarged_for_the_condition_as_published(weights, large):
    """Condition at 64 pixels, views at 64: a picture of 32 pixels is resized for both."""
    settings = large(weights, layout="tile", camera="none", size=64, condition_size=128)
    pipeline = MultiViewPipeline(create(settings, [picture(0)[None]], 0))
    wide = write_zero123plus(weights.parent / "wide", condition_crop=128)
    expected = plain_zero123plus(
        wide, picture(2), noise_of(pipeline.model, 1, 2), prompt=PROMPT, steps=2, guidance=GUIDANCE
    )
    with torch.inference_mode():
        latents = pipeline.sample([picture(2)], [1], Sampling("euler_ancestral", 2, GUIDANCE))
    assert (tile(latents, pipeline.model.slots)[0] - expected["latents"]).abs().max() < 1e-4


def test_tiles_come_apart_as_they_were_put_together():
    views = torch.arange(2 * 6 * 3 * 4 * 5.0).reshape(2, 6, 3, 4, 5)
    slots = (3, 0, 5, 1, 2, 4)
    tiled = tile(views, slots)
    assert tiled.shape == (2, 3, 12, 10)
    assert torch.equal(untile(tiled, slots), views)
    # row-major: the second slot stands to the right of the first
    assert torch.equal(tiled[:, :, :4, 5:], views[:, 0])
    assert torch.equal(tiled[:, :, 4:8, :5], views[:, 5])

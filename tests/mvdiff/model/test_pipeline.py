from dataclasses import replace

import numpy as np
import pytest
import torch

from mvdiff.errors import InputError
from mvdiff.model.build import create
from mvdiff.model.folder import save
from mvdiff.model.pipeline import MultiViewPipeline
from mvdiff.model.sampler import Sampling


@pytest.fixture
def pipeline(model):
    return MultiViewPipeline(model)


@pytest.fixture
def references(pictures):
    return pictures(5, 4)[:, 0]


def test_six_views_of_every_picture(pipeline, references):
    views = pipeline(references, seeds=range(4), steps=2)
    assert views.shape == (4, 6, 32, 32, 3)
    assert views.dtype == np.uint8


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_samples_views_do_not_depend_on_its_batch(pipeline, references, guidance):
    together = pipeline(references, seeds=[7, 8, 9, 10], steps=3, guidance=guidance)
    sampling = Sampling("ddim", 3, guidance)
    with torch.no_grad():
        latents = pipeline.sample(list(references), [7, 8, 9, 10], sampling)
        for k, seed in enumerate([7, 8, 9, 10]):
            alone = pipeline.sample([references[k]], [seed], sampling)
            assert torch.allclose(alone[0], latents[k], atol=1e-5 * latents.abs().max().item())
    alone = pipeline(references[2:3], seeds=[9], steps=3, guidance=guidance)
    assert np.abs(alone[0].astype(int) - together[2]).max() <= 1


def test_beside_other_pictures_a_samples_bytes_are_the_same(pipeline, references):
    first = pipeline(references, seeds=[7, 8, 9, 10], steps=3)
    beside = pipeline(255 - references[[1, 0, 2, 3]], seeds=[3, 2, 1, 0], steps=3)
    mixed = pipeline(np.stack([255 - references[1], *references[1:]]), seeds=[3, 8, 9, 10], steps=3)
    assert np.array_equal(mixed[1:], first[1:])
    assert np.array_equal(mixed[0], beside[0])


def test_the_same_batch_gives_the_same_bytes(pipeline, references):
    first, again = (pipeline(references, seeds=range(4), steps=2) for _ in range(2))
    assert np.array_equal(first, again)


def test_another_seed_gives_other_views_of_that_sample_alone(pipeline, references):
    first, other = (pipeline(references, seeds=seeds, steps=2) for seeds in ([0, 1, 2, 3], [0, 1, 5, 3]))
    assert [not np.array_equal(a, b) for a, b in zip(first, other, strict=True)] == [False, False, True, False]


def test_the_global_random_state_plays_no_part(pipeline, references):
    torch.manual_seed(0)
    first = pipeline(references[:1], seeds=[3], steps=2)
    torch.manual_seed(1)
    assert np.array_equal(first, pipeline(references[:1], seeds=[3], steps=2))


def test_guidance_mixes_the_two_branches(pipeline, references):
    plain, guided = (pipeline(references, seeds=range(4), steps=1, guidance=scale) for scale in (1.0, 4.0))
    assert not np.array_equal(plain, guided)
    blank = np.full_like(references[:1], 255)
    unconditional = pipeline(references[:1], seeds=[0], steps=1, guidance=0.0)
    assert np.array_equal(unconditional, pipeline(255 - references[:1], seeds=[0], steps=1, guidance=0.0))
    assert not np.array_equal(unconditional, pipeline(blank, seeds=[0], steps=1, guidance=1.0))


def test_steps_and_guidance_default_to_the_models(pipeline, references):
    settings = pipeline.model.settings
    usual = pipeline(references, seeds=range(4))
    assert np.array_equal(usual, pipeline(references, seeds=range(4), steps=settings.steps, guidance=settings.guidance))


def test_progress_counts_the_steps(pipeline, references):
    counts: list[int] = []
    pipeline(references, seeds=range(4), steps=5, progress=counts.append)
    assert counts == [1] * 5


def test_a_noised_reference_samples_too(settings, pictures, references):
    model = create(settings(reference="noised"), iter(pictures(0, 4)), 0)
    assert MultiViewPipeline(model)(references, seeds=range(4), steps=2).shape == (4, 6, 32, 32, 3)


def test_a_model_that_has_learnt_a_sample_draws_it(model, batch):
    given = batch(model, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        drawn = replace(
            given,
            timestep=torch.randint(0, 1000, (1,), generator=generator),
            noise={"views": torch.randn(given.noise["views"].shape, generator=generator)},
        )
        loss = model(drawn).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pipeline = MultiViewPipeline(model)
    truth = given.views[0].numpy().astype(float)
    drawn_views = pipeline(given.reference.numpy(), seeds=[11], steps=4)[0]
    assert np.square(drawn_views - truth).mean() < 0.2 * np.square(255 - truth).mean()


@pytest.mark.parametrize(
    "picture", [np.zeros((32, 32, 3)), np.zeros((8, 8, 2), np.uint8), np.zeros((0, 8, 3), np.uint8)]
)
def test_other_pictures_are_refused(pipeline, picture):
    with pytest.raises(InputError, match="picture"):
        pipeline([picture], seeds=[0])


@pytest.mark.parametrize("wrong", [{"seeds": [0]}, {"steps": 0}, {"steps": 1001}, {"reference_view": 6}])
def test_wrong_requests_are_refused(pipeline, references, wrong):
    with pytest.raises(InputError):
        pipeline(references, **({"seeds": range(4)} | wrong))


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmsolver++", "unipc"])
def test_a_schedule_that_ends_in_noise_is_for_ddim(pipeline, references, sampler):
    with pytest.raises(InputError, match="choose ddim"):
        pipeline(references, seeds=range(4), sampler=sampler, steps=5)


def test_no_pictures_give_no_views(pipeline):
    assert pipeline([], seeds=[]).shape == (0, 6, 32, 32, 3)


def test_a_model_that_is_handed_in_keeps_its_precision(model, references):
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    MultiViewPipeline(model, mixed_precision="bf16")(references, seeds=range(4), steps=2)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_a_model_that_is_loaded_is_kept_in_the_lower_precision_and_draws_the_same(model, references, tmp_path):
    save(model, tmp_path / "model")
    loaded = MultiViewPipeline.from_pretrained(tmp_path / "model", mixed_precision="bf16")
    assert loaded.model.unet.conv_in.weight.dtype == torch.bfloat16
    kept = MultiViewPipeline(model, mixed_precision="bf16")
    views, expected = (one(references, seeds=range(4), steps=3) for one in (loaded, kept))
    assert np.array_equal(views, expected)

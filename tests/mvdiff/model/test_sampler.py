"""Sampling with any scheduler, each sample by its own seed."""

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler

from mvdiff.errors import InputError
from mvdiff.model import settings
from mvdiff.model.noise import SampleNoise
from mvdiff.model.pipeline import MultiViewPipeline
from mvdiff.model.sampler import SAMPLERS, Sampling
from tests.mvdiff.model.conftest import smooth_picture

PICTURES = [smooth_picture(k) for k in range(3)]


@pytest.fixture(scope="module")
def pipeline(start) -> MultiViewPipeline:
    return MultiViewPipeline(start())


@pytest.fixture(scope="module")
def tiled(start) -> MultiViewPipeline:
    return MultiViewPipeline(start(layout="tile", camera="none"))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("layout", ["views", "tile"])
def test_a_samples_latents_do_not_depend_on_its_batch(pipeline, tiled, sampler, layout):
    chosen = pipeline if layout == "views" else tiled
    sampling = Sampling(sampler, 3, 2.0, rescale=0.5)
    with torch.inference_mode():
        together = chosen.sample(PICTURES, [7, 8, 9], sampling)
        alone = chosen.sample(PICTURES[1:2], [8], sampling)
        beside = chosen.sample([PICTURES[2], PICTURES[1]], [1, 8], sampling)
    scale = together.abs().max()
    assert together.isfinite().all()
    assert (alone[0] - together[1]).abs().max() < 1e-4 * scale
    assert (beside[1] - together[1]).abs().max() < 1e-4 * scale
    assert (together[0] - together[1]).abs().max() > 0.1 * scale


def test_samplers_differ(pipeline):
    with torch.inference_mode():
        drawn = {name: pipeline.sample(PICTURES[:1], [0], Sampling(name, 4, 1.0)) for name in SAMPLERS}
    names = list(SAMPLERS)
    for k, name in enumerate(names):
        for other in names[k + 1 :]:
            assert (drawn[name] - drawn[other]).abs().max() > 1e-3, (name, other)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_perfect_model_is_sampled_perfectly(pipeline, sampler, monkeypatch):
    """A model that knows the answer is led to it by every scheduler: the schedule and the prediction type agree."""
    model = pipeline.model
    answer = torch.randn(1, 6, 4, 8, 8, generator=torch.Generator().manual_seed(3))

    def knowing(noisy, timestep, cameras, condition):
        signal, spread = (level[timestep].view(-1, 1, 1, 1, 1) for level in (model.signal, model.spread))
        noise = (noisy - signal * answer) / spread
        return signal * noise - spread * answer

    monkeypatch.setattr(model, "predict_v", knowing)
    with torch.inference_mode():
        drawn = pipeline.sample(PICTURES[:1], [0], Sampling(sampler, 20, 3.0))
    # DDIM and the multistep solvers end on the model's own answer, Euler's last step does too
    assert (drawn - answer).abs().max() < 0.1


def test_the_ancestral_sampler_is_diffusers_own_bit_for_bit(pipeline):
    ours = Sampling("euler_ancestral", 5, 1.0).scheduler(pipeline.model)
    theirs = EulerAncestralDiscreteScheduler.from_config(ours.config)
    theirs.set_timesteps(5)
    noise = torch.Generator().manual_seed(4)
    latents = torch.randn(2, 6, 4, 8, 8, generator=noise) * ours.init_noise_sigma
    expected = latents
    for step in ours.timesteps:
        v = torch.randn(latents.shape, generator=noise)
        drawn = torch.randn(latents.shape, generator=torch.Generator().manual_seed(9))
        assert torch.equal(ours.scale_model_input(latents, step), theirs.scale_model_input(expected, step))
        latents = ours.step(v, step, latents, drawn).prev_sample
        expected = theirs.step(v, step, expected, generator=torch.Generator().manual_seed(9)).prev_sample
        assert torch.equal(latents, expected)


def test_one_unconditional_pass_serves_a_batch(pipeline, monkeypatch):
    rows = []
    unet = pipeline.model.unet_pass

    def counted(noisy, *rest):
        rows.append(len(noisy))
        return unet(noisy, *rest)

    monkeypatch.setattr(pipeline.model, "unet_pass", counted)
    pipeline(PICTURES, seeds=[0, 1, 2], steps=1, guidance=2.0)
    # reference pass and views of the condition, then the one unconditional reference and views again
    assert rows == [3, 18, 1, 18]


def test_without_guidance_there_is_no_unconditional_pass(pipeline, monkeypatch):
    calls = []
    monkeypatch.setattr(pipeline.model, "unconditional", lambda *rest: calls.append(rest))
    pipeline(PICTURES[:1], seeds=[0], steps=2, guidance=1.0)
    assert calls == []


def test_guidance_acts_in_its_interval_only(pipeline, monkeypatch):
    seen = []
    predict = pipeline.model.predict_v

    def noted(noisy, timestep, *given):
        seen.append(int(timestep[0]))
        return predict(noisy, timestep, *given)

    monkeypatch.setattr(pipeline.model, "predict_v", noted)
    pipeline(PICTURES[:1], seeds=[0], steps=10, guidance=2.0, guidance_interval=(0.2, 0.6))
    assert [step for step in sorted(set(seen), reverse=True) if seen.count(step) == 2] == [599, 499, 399, 299]
    assert len(set(seen)) == 10


def test_what_was_kept_of_earlier_calls_changes_no_bit(start):
    """Whatever they asked for; a fresh pipeline says the same."""
    calls = [{"steps": 11, "guidance_interval": interval} for interval in ((0.3, 0.6), (0.0, 1.0), (0.0, 0.5))] + [
        {"steps": 9},
        {"steps": 9, "sampler": "ddim"},
        {"steps": 11, "sampler": "ddim"},
    ]

    def views(pipeline, call):
        return pipeline(PICTURES[:2], seeds=[4, 5], guidance=4.0, **call)

    def fresh():
        made = MultiViewPipeline(start())
        assert made.model.noised_reference
        return made

    used = fresh()
    used.own()
    assert all(np.array_equal(views(used, call), views(fresh(), call)) for call in calls)


@pytest.mark.parametrize("reference", ["clean", "noised"])
def test_steps_share_the_unconditional_pass_and_see_what_each_would_by_itself(start, reference, monkeypatch):
    pipeline = MultiViewPipeline(start(reference=reference))
    sampling = Sampling("euler_ancestral", 11, 2.0)
    with torch.inference_mode():
        together = pipeline.sample(PICTURES[:2], [4, 5], sampling)
        monkeypatch.setattr("mvdiff.model.sampler._AT_ONCE", 1)
        alone = pipeline.sample(PICTURES[:2], [4, 5], sampling)
    assert (together - alone).abs().max() < 1e-4 * alone.abs().max()


def test_the_interval_shifts_no_other_noise(pipeline):
    """Outside the interval the same noise is drawn: the first step of both is the same step."""
    with torch.inference_mode():
        never = pipeline.sample(PICTURES[:1], [5], Sampling("euler_ancestral", 3, 1.0))
        elsewhere = pipeline.sample(PICTURES[:1], [5], Sampling("euler_ancestral", 3, 9.0, interval=(0.999999, 1.0)))
        none = pipeline.sample(PICTURES[:1], [5], Sampling("euler_ancestral", 3, 9.0, interval=(0.01, 0.02)))
    assert torch.equal(never, none)
    assert not torch.equal(never, elsewhere)


def test_rescaling_keeps_the_deviation_of_the_conditional_prediction():
    from mvdiff.model.sampler import _guide

    generator = torch.Generator().manual_seed(0)
    conditional, other = torch.randn(2, 2, 6, 4, 8, 8, generator=generator)
    wild = _guide(conditional, other, Sampling("ddim", 1, 8.0))
    calm = _guide(conditional, other, Sampling("ddim", 1, 8.0, rescale=1.0))
    half = _guide(conditional, other, Sampling("ddim", 1, 8.0, rescale=0.5))
    of = (1, 2, 3, 4)
    assert torch.allclose(calm.std(of), conditional.std(of), rtol=1e-5)
    assert (wild.std(of) > 5 * conditional.std(of)).all()
    assert torch.allclose(half, (wild + calm) / 2, atol=1e-5)


def test_a_tile_turns_with_the_reference_view(tiled):
    """On an even rig the picture of view 2 gives the same views, two places on."""
    straight = tiled(PICTURES[:1], seeds=[0], steps=2)
    turned = tiled(PICTURES[:1], seeds=[0], steps=2, reference_view=2)
    assert np.array_equal(np.roll(straight, 2, 1), turned)


def test_an_uneven_tile_cannot_turn(start):
    model = start(layout="tile", camera="none", rig="facelift", pretrained_rig="facelift")
    with pytest.raises(InputError, match=r"facelift \(.*not the same from each"):
        MultiViewPipeline(model)(PICTURES[:1], seeds=[0], steps=1, reference_view=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sampler": "heun"},
        {"guidance_rescale": 1.5},
        {"guidance_interval": (0.8, 0.2)},
        {"masks": [None]},
        {"guidance": float("nan")},
        {"guidance": float("inf")},
        {"seeds": [0, 1.5, 2]},
        {"steps": 2.5},
        {"reference_view": 1.0},
        {"steps": 0},
    ],
)
def test_wrong_requests_are_refused(pipeline, wrong):
    with pytest.raises(InputError):
        pipeline(PICTURES, **({"seeds": [0, 1, 2]} | wrong))


def test_what_is_no_number_is_no_picture(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline.model, "predict_v", lambda noisy, *rest: noisy * float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        pipeline(PICTURES[:1], seeds=[0], steps=1)


def test_noise_is_standard_normal_its_own_for_each_seed_and_the_same_for_ever():
    drawn = SampleNoise([0, 1]).draw("views", (6, 4, 32, 32))
    assert abs(drawn.mean()) < 0.02 and abs(drawn.std() - 1) < 0.02
    assert abs(torch.corrcoef(drawn.flatten(1))[0, 1]) < 0.02
    alone = SampleNoise([1])
    other = alone.draw("reference", (6, 4, 32, 32))
    assert torch.equal(alone.draw("views", (6, 4, 32, 32))[0], drawn[1])
    assert not torch.equal(other[0], drawn[1])
    first = [0.058942, -0.230438, 0.743930]
    assert SampleNoise([0]).draw("views", (3,))[0].tolist() == pytest.approx(first, abs=1e-5)


def test_bf16_stays_near_float32(start):
    plain = MultiViewPipeline(start())(PICTURES[:1], seeds=[0], steps=2, guidance=1.0)
    half = MultiViewPipeline(start(), mixed_precision="bf16")(PICTURES[:1], seeds=[0], steps=2, guidance=1.0)
    error = np.square(plain.astype(float) - half).mean()
    assert 0 < error < 0.02 * 255**2


def test_every_sampler_that_settings_name_is_there():
    assert set(settings.SAMPLERS) == set(SAMPLERS)

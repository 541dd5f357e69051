"""Where a model starts: published weights, plain Stable Diffusion, a checkpoint, nothing."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from mvdiff.errors import InputError
from mvdiff.model.build import create
from mvdiff.model.folder import load, save
from mvdiff.model.origin import origin
from mvdiff.model.pipeline import MultiViewPipeline
from tests.mvdiff.model.conftest import large_batch, smooth_picture
from tests.mvdiff.model.published import write_zero123plus


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_published_weights_arrive_unchanged(start, zero123plus):
    model = start()
    unet = UNet2DConditionModel.from_pretrained(zero123plus / "unet")
    assert same(model.unet, unet)
    assert model.scheduler.config["beta_schedule"] == "linear"
    assert model.scheduler.config["timestep_spacing"] == "trailing"
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


def test_plain_stable_diffusion_starts_a_model_without_a_vision_encoder(start, stable_diffusion):
    model = start(stable_diffusion, pretrained_rig=None)
    assert model.vision_encoder is None and model.sight.glance_size == 0
    # its own betas are scaled-linear: views are trained on the linear schedule of the family
    assert model.scheduler.config["beta_schedule"] == "linear"
    assert model(large_batch(model)).isfinite().all()


def test_half_precision_of_frozen_parts_is_widened_and_of_the_unet_refused(tmp_path, large):
    parts = write_zero123plus(tmp_path / "parts", others_dtype=torch.float16)
    model = create(large(parts), [smooth_picture(0)[None]], 0)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    whole = write_zero123plus(tmp_path / "whole", unet_dtype=torch.float16)
    with pytest.raises(InputError, match=r"float16.*model.accept_half=true"):
        create(large(whole), [smooth_picture(0)[None]], 0)
    accepted = create(large(whole, accept_half=True), [smooth_picture(0)[None]], 0)
    assert {weight.dtype for weight in accepted.unet.parameters()} == {torch.float32}


def test_cameras_that_differ_from_the_pretrained_ones_are_refused_with_both_shown(start):
    with pytest.raises(InputError) as caught:
        start(pretrained_rig="zero123plus-v1.2")
    told = str(caught.value)
    assert "zero123plus-v1.2 (azimuth 30 90 150 210 270 330, elevation 20 -10 20 -10 20 -10" in told
    assert "mouse (azimuth 0 60 120 180 240 300, elevation 0 0 0 0 0 0" in told
    assert "model.mapping=order" in told and "\n" not in told


def test_a_rig_around_a_seventh_picture_is_not_that_of_six_views(start):
    """Zero123++'s slots are seen from around its picture; in six views of the same angles the picture is the first."""
    with pytest.raises(InputError, match=r"around a picture that is none of the six.*model\.mapping=order"):
        start(rig="zero123plus-v1.2", pretrained_rig="zero123plus-v1.2", layout="tile", camera="none")
    start(rig="zero123plus-v1.2", pretrained_rig="zero123plus-v1.2", layout="tile", camera="none", mapping="order")


def test_elevation_30_against_0_is_refused_by_name(start):
    raised = {"name": "raised", "azimuth": [0, 60, 120, 180, 240, 300], "elevation": [30] * 6, "fov": 30,
              "distance": 1.8660254}  # fmt: skip
    with pytest.raises(InputError, match=r"raised \(.*elevation 30 30 30 30 30 30.*mouse \(.*elevation 0 0 0 0 0 0"):
        start(pretrained_rig=raised)


@pytest.mark.parametrize(
    ("mapping", "slots"), [("order", (0, 1, 2, 3, 4, 5)), ([5, 0, 1, 2, 3, 4], (5, 0, 1, 2, 3, 4))]
)
def test_a_mapping_that_is_asked_for_says_which_view_stands_in_which_slot(start, tmp_path, mapping, slots):
    model = start(pretrained_rig="zero123plus-v1.2", mapping=mapping, layout="tile", camera="none")
    assert model.slots == slots
    save(model, tmp_path / "saved")
    assert load(tmp_path / "saved").slots == slots


def test_a_checkpoint_starts_another_model(start, large, tmp_path):
    first = start(pretrained_rig="zero123plus-v1.2", mapping=[5, 0, 1, 2, 3, 4], layout="tile", camera="none")
    save(first, tmp_path / "first")
    onwards = large(tmp_path / "first", pretrained_rig=None, layout="tile", camera="none")
    again = create(onwards, [smooth_picture(0)[None]], 0)
    assert same(again, first) and again.slots == first.slots
    apart = create(replace(onwards, layout="views", camera="cross_attention"), [smooth_picture(0)[None]], 0)
    assert same(apart.unet, first.unet) and apart.camera is not None
    wide = create(replace(onwards, layout="views", camera="concat"), [smooth_picture(0)[None]], 0)
    save(wide, tmp_path / "wide")
    narrow = create(large(tmp_path / "wide", pretrained_rig=None, camera="adaln"), [smooth_picture(0)[None]], 0)
    assert narrow.unet.config["in_channels"] == 4
    assert torch.equal(narrow.unet.conv_in.weight, first.unet.conv_in.weight)


def test_a_checkpoint_of_other_cameras_prompt_or_size_is_refused(start, large, tmp_path):
    save(start(), tmp_path / "first")
    for change, match in [
        ({"rig": "facelift"}, r"mouse \(.*facelift \("),
        ({"prompt_text": "a rat"}, r"prompt_text=a laboratory mouse.*asked for is a rat"),
        ({"prompt": "token", "prompt_text": "a [MOUSE]"}, "no text encoder"),
        ({"size": 128}, r"model.size=64, asked for is 128"),
        ({"condition_size": 72}, r"condition_size=72 does not fit: .*multiples of 64"),
        ({"prompt": "learnable", "prompt_text": "an elephant"}, r"asked for is an elephant"),
    ]:
        with pytest.raises(InputError, match=match):
            origin(large(tmp_path / "first", pretrained_rig=None, **change))


def test_sizes_that_do_not_halve_are_refused(large, zero123plus):
    for key in ("size", "condition_size"):
        with pytest.raises(InputError, match=rf"model.{key}=100 .*multiples of 64"):
            origin(large(zero123plus, **{key: 100}))


def test_plain_stable_diffusion_knows_no_rig(large, stable_diffusion):
    with pytest.raises(InputError, match=r"choose model=stable-diffusion-2\.1"):
        origin(large(stable_diffusion))


def test_zero123plus_needs_to_be_told_its_version(large, zero123plus):
    with pytest.raises(InputError, match=r"pretrained_rig=zero123plus-v1.1 or zero123plus-v1.2"):
        origin(large(zero123plus, pretrained_rig=None))


@pytest.mark.parametrize("options", [{}, {"layout": "tile", "camera": "none"}], ids=["views", "tile"])
def test_what_is_saved_is_loaded_and_diffusers_reads_its_unet(start, tmp_path, options):
    model = start(**options)
    save(model, tmp_path / "saved")
    loaded = load(tmp_path / "saved").eval()
    assert same(loaded, model) and loaded.placement == model.placement and loaded.origin == model.origin
    # what it says of itself names the weights it began with, not where they lay
    assert loaded.settings == replace(model.settings, pretrained="zero123plus")
    assert str(tmp_path.parent) not in (tmp_path / "saved" / "model_index.json").read_text()
    batch = large_batch(model)
    with torch.no_grad():
        assert torch.equal(loaded(batch), model(batch))
    unet, found = UNet2DConditionModel.from_pretrained(
        tmp_path / "saved" / "unet", low_cpu_mem_usage=False, output_loading_info=True
    )
    assert same(unet, model.unet) and not any(
        found[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys")
    )
    assert {path.suffix for path in (tmp_path / "saved").rglob("*") if path.is_file()} == {".safetensors", ".json"}


def test_the_same_settings_and_seed_give_the_same_model(start):
    state = torch.random.get_rng_state()
    one, two, other = start(seed=1), start(seed=1), start(seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(one, two)
    assert not same(one.camera, other.camera) and same(one.unet, other.unet)


@pytest.mark.skipif("MVDIFF_ZERO123PLUS" not in os.environ, reason="set MVDIFF_ZERO123PLUS to a zero123plus folder")
def test_a_real_zero123plus_draws_six_views(large):
    """For whoever has the published weights: they load, check, and draw."""
    settings = large(
        os.environ["MVDIFF_ZERO123PLUS"],
        pretrained_rig="zero123plus-v1.2",
        mapping="order",
        layout="tile",
        camera="none",
        size=320,
        condition_size=512,
        accept_half=True,
    )
    model = create(settings, [smooth_picture(0, 320)[None]], 0)
    assert sum(weight.numel() for weight in model.unet.parameters()) == 865_910_724
    views = MultiViewPipeline(model)([smooth_picture(0, 320)], seeds=[0], steps=2)
    assert views.shape == (1, 6, 320, 320, 3)
    assert np.ptp(views) > 50

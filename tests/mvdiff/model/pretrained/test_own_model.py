"""Folders of weights that this program wrote itself: read, and their damage told."""

import json
import os
import shutil

import pytest

from mvdiff.model.folder import save
from mvdiff.model.pretrained import inspect
from tests.mvdiff.model.pretrained.files import INDEX, SCHEDULER, VAE, VISION, edit
from tests.mvdiff.model.pretrained.refusal import refusal


@pytest.fixture
def own(originals, tmp_path):
    """The layout of a model that this program writes."""
    folder = tmp_path / "step-00000300"
    for name in ("unet", "vae", "vision_encoder", "scheduler"):
        shutil.copytree(originals / "zero123plus" / name, folder / name)
    index = {
        "_class_name": "MultiViewPipeline",
        "_diffusers_version": "0.38.0",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "vision_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "camera": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "settings": {"name": "tiny"},
        "slots": [0, 1, 2, 3, 4, 5],
    }
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def test_an_own_model_is_read(own):
    found = inspect(own, half=False)
    assert (found.kind, found.ramp, found.condition_size) == ("mvdiff", None, None)
    assert found.index["settings"] == {"name": "tiny"}
    assert set(found.weights) == {"unet", "vae", "vision_encoder"}
    assert found.config("scheduler")["num_train_timesteps"] == 1000


def test_a_model_as_it_is_saved_is_read(model, tmp_path):
    save(model, tmp_path / "checkpoint")
    found = inspect(tmp_path / "checkpoint", half=False)
    assert found.kind == "mvdiff"
    assert {"unet", "vae", "camera", "context"} <= found.weights.keys()


@pytest.mark.parametrize(
    ("inflict", "expected"),
    [
        (lambda f: edit(f / INDEX, drop="settings"), "does not say settings"),
        (lambda f: edit(f / INDEX, drop="unet"), "names no unet"),
        (lambda f: edit(f / INDEX, **{"../originals": ["diffusers", "AutoencoderKL"]}), "component '../originals'"),
        (lambda f: shutil.rmtree(f / "vae"), "lacks its folder"),
        (lambda f: os.truncate(f / VAE, 5000), "is cut off"),
        (lambda f: (f / VISION).unlink(), "has no model.safetensors"),
        (lambda f: (f / "vae" / "config.json").unlink(), "config.json is missing"),
        (lambda f: (f / SCHEDULER).write_text("{"), "is not JSON"),
    ],
)
def test_damage_of_an_own_model(own, inflict, expected):
    inflict(own)
    assert expected in refusal(own)

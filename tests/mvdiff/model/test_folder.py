import json

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from mvdiff.errors import InputError
from mvdiff.model.folder import load, save
from mvdiff.model.pipeline import MultiViewPipeline


@pytest.fixture
def folder(model, tmp_path):
    save(model, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_what_was_saved_is_loaded(model, folder, batch):
    loaded = load(folder).eval()
    assert loaded.settings == model.settings
    saved = model.state_dict()
    assert loaded.state_dict().keys() == saved.keys()
    assert all(torch.equal(value, saved[name]) for name, value in loaded.state_dict().items())
    given = batch(model)
    assert torch.equal(loaded(given), model(given))


def test_a_loaded_model_trains_on(folder, batch):
    loaded = load(folder)
    loaded(batch(loaded)).mean().backward()
    assert all(weight.requires_grad for weight in loaded.unet.parameters())
    assert not loaded.vae.basis.requires_grad


def test_the_pipeline_loads_a_checkpoint(model, folder, pictures):
    references = pictures(3, 2)[:, 0]
    loaded = MultiViewPipeline.from_pretrained(folder)(references, seeds=[1, 2], steps=2)
    assert np.array_equal(loaded, MultiViewPipeline(model)(references, seeds=[1, 2], steps=2))


def test_diffusers_alone_loads_the_unet(model, folder):
    unet, found = UNet2DConditionModel.from_pretrained(
        folder / "unet", low_cpu_mem_usage=False, output_loading_info=True
    )
    assert not any(found[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    shape = (2, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    out = unet(
        torch.randn(shape),
        10,
        encoder_hidden_states=torch.randn(2, 4, unet.config.cross_attention_dim),
        class_labels=torch.randn(2, 4 * unet.config.block_out_channels[0]),
    ).sample
    assert out.shape == (2, model.space.channels, *shape[2:])


def test_weights_are_safetensors_and_the_rest_is_json(folder):
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".safetensors", ".json"}


def test_the_index_names_every_component(folder):
    index = json.loads((folder / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert {path.name for path in folder.iterdir() if path.is_dir()} <= index.keys()


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no model in .*nowhere"):
        load(tmp_path / "nowhere")


def edit_index(folder, **values):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | values))


@pytest.mark.parametrize("named", [["os", "system"], ["diffusers", "AutoencoderKL"], None, "UNet2DConditionModel"])
def test_a_class_that_is_not_registered_is_refused(folder, named):
    edit_index(folder, unet=named)
    with pytest.raises(InputError, match="unet"):
        load(folder)


def test_an_index_that_is_not_json_is_refused(folder):
    (folder / "model_index.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        load(folder)


@pytest.mark.parametrize("name", ["unet", "vae", "camera", "context"])
def test_a_missing_component_is_refused(folder, name):
    (folder / name).rename(folder.parent / name)
    with pytest.raises(InputError, match=f"lacks its folder .*{name}"):
        load(folder)


def test_half_a_file_is_refused(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InputError, match="does not load"):
        load(folder)


def test_a_missing_weight_is_refused_rather_than_drawn_at_random(folder):
    weights = folder / "camera" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors.pop("projection.bias")
    save_file(tensors, weights)
    with pytest.raises(InputError, match=r"missing keys projection\.bias"):
        load(folder)


def test_a_pickled_weight_file_is_not_opened(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(InputError, match="does not load"):
        load(folder)


def test_settings_of_another_version_are_refused(folder):
    index = json.loads((folder / "model_index.json").read_text())
    edit_index(folder, settings=index["settings"] | {"colour": "red"})
    with pytest.raises(InputError, match="colour"):
        load(folder)
    del index["settings"]["new"]["patch"]
    edit_index(folder, settings=index["settings"])
    with pytest.raises(InputError, match="patch"):
        load(folder)

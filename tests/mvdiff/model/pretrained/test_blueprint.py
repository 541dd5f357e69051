import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from mvdiff.model.pretrained import blueprint
from mvdiff.model.pretrained.jsonfile import JsonFile


def as_file(config):
    return JsonFile(Path("config.json"), json.loads(json.dumps(dict(config))))


def shapes_of(model):
    prefixes = ("text_model.", "vision_model.")
    named = ((next((k[len(p) :] for p in prefixes if k.startswith(p)), k), v) for k, v in model.state_dict().items())
    return {name: tuple(value.shape) for name, value in named}


@pytest.mark.parametrize(
    "config",
    [
        {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
        {"cross_attention_dim": 768},
        {
            "cross_attention_dim": 64,
            "block_out_channels": [32, 64, 64, 96],
            "layers_per_block": [1, 2, 3, 1],
            "transformer_layers_per_block": [1, 2, 3, 1],
        },
        {
            "cross_attention_dim": 32,
            "block_out_channels": [32, 64],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        },
    ],
    ids=["SD 2.1", "SD 1.5", "uneven", "two levels"],
)
def test_the_blueprint_is_that_of_the_unet(config):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    assert blueprint.unet(as_file(unet.config)) == shapes_of(unet)


def test_the_blueprints_are_those_of_the_other_networks():
    widths = [32, 64, 64]
    vae_types = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    size = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    with torch.device("meta"):
        vae = AutoencoderKL(block_out_channels=widths, layers_per_block=2, **vae_types)
        text = CLIPTextModel(CLIPTextConfig(**size))
        vision = CLIPVisionModelWithProjection(
            CLIPVisionConfig(**size, projection_dim=48, image_size=224, patch_size=14)
        )
    assert blueprint.vae(as_file(vae.config)) == shapes_of(vae)
    assert blueprint.text_encoder(as_file(text.config.to_dict())) == shapes_of(text)
    assert blueprint.vision_encoder(as_file(vision.config.to_dict())) == shapes_of(vision)

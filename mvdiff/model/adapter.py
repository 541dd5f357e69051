"""LoRA on the UNet's attention, through peft (Hu et al. 2021)."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.lora import Linear, LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

NAME = "default"
FILE = "pytorch_lora_weights.safetensors"
_NOTES = "lora_adapter_metadata"
"""Where diffusers keeps rank and scale."""
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def add(unet: UNet2DConditionModel, rank: int, alpha: int, seed: int) -> None:
    """Give every attention projection of ``unet`` a LoRA that starts as no change; only it remains to be trained.

    Its random half is drawn from ``seed``; torch's global generator is left as it was.
    """
    unet.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS), adapter_name=NAME)


def save(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the LoRA of ``unet`` as diffusers does; the same weights give the same bytes.

    peft keeps its lists as sets, and safetensors orders what it notes by chance.
    """
    unet.save_lora_adapter(folder, safe_serialization=True)
    file = folder / FILE
    with safe_open(file, "pt") as stored:
        notes = json.loads(stored.metadata()[_NOTES])
    notes = {key: sorted(value) if isinstance(value, list) else value for key, value in notes.items()}
    save_file(load_file(file), file, metadata={_NOTES: json.dumps(notes, sort_keys=True)})


def is_on(unet: UNet2DConditionModel) -> bool:
    """Whether ``unet`` has a LoRA."""
    return any(isinstance(module, LoraLayer) for module in unet.modules())


def merged(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """Weights of the plain UNet that computes what ``unet`` with its LoRA does, on the CPU."""
    weights = {
        name.replace(".base_layer", ""): weight
        for name, weight in unet.state_dict().items()
        if ".lora_A." not in name and ".lora_B." not in name
    }
    for name, module in unet.named_modules():
        if isinstance(module, Linear):
            base: Any = module.get_base_layer()
            weights[f"{name}.weight"] = base.weight + module.get_delta_weight(NAME)
    return {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}

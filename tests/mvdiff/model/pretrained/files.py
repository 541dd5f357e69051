"""The files of a folder of weights, and what is done to them."""

import json

import torch
from safetensors.torch import load_file, save_file

INDEX = "model_index.json"
UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
VISION = "vision_encoder/model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"
CLIP, CONDITION = (f"feature_extractor_{end}/preprocessor_config.json" for end in ("clip", "vae"))
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 3463726504\n"


def edit(file, drop=None, **values):
    content = json.loads(file.read_text()) | values
    content.pop(drop, None)
    file.write_text(json.dumps(content))


def recast(file, dtype, only=""):
    save_file({k: v.to(dtype) if only in k and v.is_floating_point() else v for k, v in load_file(file).items()}, file)


def reshape(file, name, *shape):
    save_file(load_file(file) | {name: torch.zeros(shape)}, file)


def rename(file, old, new):
    save_file({name.replace(old, new): value for name, value in load_file(file).items()}, file)


def shard(file):
    """Split the weights of ``file`` over two files beside an index; the names of the two."""
    weights = load_file(file)
    names = [f"{file.stem}-{k:05d}-of-00002.safetensors" for k in (1, 2)]
    places = {name: names[k % 2] for k, name in enumerate(sorted(weights))}
    for part in names:
        save_file({name: weights[name] for name, place in places.items() if place == part}, file.with_name(part))
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    file.with_name(f"{file.name}.index.json").write_text(json.dumps(index))
    file.unlink()
    return names


def replace_header(file, change):
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = change(data[8:end])
    file.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])

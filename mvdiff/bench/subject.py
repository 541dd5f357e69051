"""What is measured on: a model with random weights, and shards of noise."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mvdiff.model.memory import random_model
from mvdiff.model.multiview import MultiViewModel
from mvdiff.model.settings import ModelSettings
from mvdiff.rig import VIEWS, Rig
from mvdiff.shard import Sample, ShardWriter

_SEED = 0


def device() -> torch.device:
    """This process's GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def model(settings: ModelSettings, where: torch.device) -> MultiViewModel:
    """A model on ``where`` whose random weights keep the deviation of what passes through them.

    With small weights all views would come out grey, and lower precision would look better than it is.
    """
    torch.manual_seed(_SEED)
    made = random_model(settings, where)
    for module in made.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight.normal_(std=1 / math.sqrt(module.weight[0].numel()))
        elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.weight.fill_(1)
        else:
            continue
        if module.bias is not None:
            module.bias.zero_()
    kept = type(made.scheduler).from_config(made.scheduler.config).alphas_cumprod
    made.signal.copy_(kept.sqrt())
    made.spread.copy_((1 - kept).sqrt())
    return made


def shard(folder: Path, rows: int, rig: Rig, size: int) -> Path:
    """A folder with one shard of ``rows`` samples of noise on white, as large as decoded pictures are."""
    chance = np.random.default_rng(_SEED)
    azimuth, elevation = (np.asarray(angles, np.float32) for angles in (rig.azimuth, rig.elevation))
    with ShardWriter(folder / "noise.h5", size=size, rig=rig.name, codec="lz4", with_alpha=False) as writer:
        for number in range(rows):
            views = np.full((VIEWS, size, size, 3), 255, np.uint8)
            inner = slice(size // 4, size - size // 4)
            views[:, inner, inner] = chance.integers(0, 256, views[:, inner, inner].shape, np.uint8)
            name = f"sample-{number:06d}"
            writer.append(Sample(name, name, views, None, rig.w2c(), rig.intrinsics(size), azimuth, elevation))
        writer.publish()
    return folder


def refuse(sample_id: str, why: str) -> None:
    """What is done about a bad sample: a fresh shard has none."""
    raise AssertionError(f"{sample_id} of a fresh shard: {why}")

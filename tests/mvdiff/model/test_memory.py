"""What the emulated GPU counts, against the same work tracked on real tensors and against arithmetic."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from mvdiff.errors import InputError
from mvdiff.model import memory, published
from mvdiff.model.emulation import Emulation
from mvdiff.model.memory import GIB, META, Generation, Tracker, empty_model, parameters, random_model, sampling_peak
from mvdiff.model.pipeline import PRECISIONS, MultiViewPipeline
from mvdiff.model.sampler import Sampling

CPU = torch.device("cpu")


@pytest.fixture
def reduced(monkeypatch):
    """The published architecture, much narrower."""
    narrow = {
        "UNET": {"block_out_channels": (32, 32, 64, 64), "attention_head_dim": (1, 1, 2, 2), "cross_attention_dim": 32},
        "VAE": {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1},
        "VISION": {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "projection_dim": 32, "image_size": 28,
        },
    }  # fmt: skip
    for name, values in narrow.items():
        monkeypatch.setattr(published, name, getattr(published, name) | values)


@pytest.fixture
def flushed():
    """Random weights make numbers so small that a CPU slows down a hundredfold over them."""
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)


def tracked(work):
    tracker, emulation = Tracker(META), Emulation()
    with tracker, emulation:
        kept = work(emulation)
    return tracker, kept


def test_the_published_unet_has_its_865_9_million_parameters(large):
    with Emulation():
        model = empty_model(large("any", size=320, condition_size=320))
    counted = parameters(model)
    assert counted["UNet"] == 865_910_724
    assert counted["VAE"] == 83_653_863
    assert round(counted["vision encoder"] / 1e6, 1) == 632.1
    assert {weight.device.type for weight in model.parameters()} == {"meta"}


def test_plain_stable_diffusion_has_no_vision_encoder(large, reduced):
    with Emulation():
        assert "vision encoder" not in parameters(empty_model(large("any", pretrained_rig=None)))


def test_a_new_word_is_refused_with_what_it_would_add(large):
    with Emulation(), pytest.raises(InputError, match=r"add 1.3 GiB"):
        empty_model(large("any", prompt="token", prompt_text="a [MOUSE]"))


def test_the_tracker_counts_storages_once_and_until_they_are_gone():
    tracker = Tracker(META)
    with tracker:
        one = torch.empty(100, device=META)
        assert tracker.live == 512
        view = one.view(10, 10).T
        torch.zeros(1000)
        assert tracker.live == 512, "views and other devices' tensors cost nothing"
        other = one + 1
        assert tracker.live == 1024
        del one, other
        assert (tracker.live, tracker.peak) == (512, 1024)
        del view
        assert (tracker.live, tracker.peak) == (0, 1024)
        tracker.restart()
        assert tracker.peak == 0


@pytest.mark.parametrize(
    ("size", "block"),
    [(1, 512), (512, 512), (513, 1024), (12 * 2**20 + 2**19, 12 * 2**20 + 2**19), (11 * 2**20, 12 * 2**20)],
)
def test_blocks_are_those_of_the_cuda_allocator(size, block):
    assert memory._block(size) == block


def test_attention_keeps_no_matrix_of_weights():
    query = torch.empty(2, 4, 1000, 64, device=META, requires_grad=True)
    tracker, out = tracked(lambda _: torch.nn.functional.scaled_dot_product_attention(query, query, query))
    kept = 2 * 4 * 1000 * (64 + 1) * 4  # the output and a logarithm a row
    assert kept <= tracker.peak < kept + 2048
    assert out.transpose(1, 2).is_contiguous(), "heads side by side, so that joining them copies nothing"


def test_autocast_casts_as_on_a_gpu_and_keeps_the_casts_of_trained_weights():
    linear, norm = torch.nn.Linear(512, 512, device=META), torch.nn.GroupNorm(8, 512, device=META)

    def work(emulation):
        with emulation.autocast(torch.bfloat16):
            twice = linear(linear(torch.empty(8, 512, device=META)))
            assert twice.dtype == torch.bfloat16
            assert norm(twice).dtype == torch.float32
            assert (torch.empty(8, 512, device=META) + twice).dtype == torch.float32
        return twice

    tracker, _ = tracked(work)
    once = 512 * 512 * 2
    assert once < tracker.peak < 1.2 * once
    linear.requires_grad_(False)
    with torch.no_grad():
        assert tracked(work)[0].live < once / 2, "of frozen weights nothing is kept"


@pytest.mark.parametrize("layout", ["views", "tile"])
def test_generation_takes_what_the_same_tensors_take_on_a_cpu(large, reduced, flushed, layout):
    settings = large("any", layout=layout, camera="adaln" if layout == "views" else "none")
    asked = Generation(2, "no", 4.0)
    tracker = Tracker(CPU)
    with tracker, torch.no_grad():
        pipeline = MultiViewPipeline(random_model(settings, CPU), CPU)
        tracker.restart()
        pictures = np.zeros((2, settings.size, settings.size, 3), np.uint8)
        pipeline.model.space.decode(pipeline.sample(pictures, range(2), Sampling("ddim", 2, 4.0)))
    assert sampling_peak(settings, asked) - memory._WORKSPACE == pytest.approx(tracker.peak, rel=0.01)


def test_generation_takes_more_for_more_samples_and_for_a_tile(large):
    def peak(samples, **overrides):
        settings = large("any", size=320, condition_size=320, **overrides)
        return sampling_peak(settings, Generation(samples, "no", 4.0)) / GIB

    assert 6 < peak(1) < peak(8) < 15
    assert peak(8, layout="tile", camera="none") < 1.1 * peak(8), "tiles are decoded one by one"


def test_random_weights_serve_a_real_pipeline(settings, flushed):
    model = random_model(settings(), CPU)
    assert set(PRECISIONS) == {"no", "bf16"}
    views = MultiViewPipeline(model, CPU)(np.zeros((1, 40, 40, 3), np.uint8), seeds=[0], steps=1)
    assert views.shape == (1, 6, 32, 32, 3)


def test_a_model_is_empty_whatever_transformers_has_loaded_before(tmp_path):
    """In a process of its own: torch finds out once which functions make tensors."""
    script = """
import sys
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from mvdiff.model.component import read_component
tiny = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=32)
CLIPVisionModelWithProjection(CLIPVisionConfig(projection_dim=8, patch_size=16, **tiny)).save_pretrained(sys.argv[1])
from pathlib import Path
read_component(Path(sys.argv[1]), CLIPVisionModelWithProjection)
with torch.device("meta"):
    print(torch.linspace(0, 1, 3).device)
"""
    answer = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "clip")], capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == ["meta"]

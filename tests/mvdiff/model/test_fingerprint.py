"""Kernels that are found again without a recording: only where a recording would be the same."""

import functools
from collections.abc import Callable
from pathlib import Path
from types import MethodType

import pytest
import torch
from torch import nn
from torch.nn import functional

from mvdiff.model import attention, fingerprint, precompiled
from mvdiff.model.build import create
from mvdiff.model.compilation import CompileCache
from mvdiff.model.folder import load, save
from mvdiff.model.precompiled import Precompiled
from tests.mvdiff.model.conftest import draw_pictures


class Layer(nn.Module):
    """A little of everything that a module may hold."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.inner = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)
        self.scale, self.many, self.table = 2.0, [1, (2, 3)], {"a": {1, 2}}
        self.act: Callable = functional.silu
        self.processor = Processor()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.processor(self.norm(self.act(self.inner(values)) * self.scale))


class Processor:
    def __init__(self) -> None:
        self.times = 2

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        return values * self.times


def key(layer: nn.Module, given: object = (1, "a")) -> str | None:
    return fingerprint.fingerprint(layer, given)


CHANGES: dict[str, Callable[[Layer], object]] = {
    "a number": lambda layer: setattr(layer, "scale", 2.5),
    "a number's type": lambda layer: setattr(layer, "scale", 2),
    "a list": lambda layer: layer.many.append(4),
    "a nested set": lambda layer: layer.table["a"].add(3),
    "an attribute of a part": lambda layer: setattr(layer.norm, "eps", 1e-3),
    "an attribute of a processor": lambda layer: setattr(layer.processor, "times", 3),
    "a function": lambda layer: setattr(layer, "act", functional.gelu),
    "a function's argument": lambda layer: setattr(layer, "act", functools.partial(functional.silu, inplace=True)),
    "a method": lambda layer: setattr(layer.norm, "forward", MethodType(lambda self, values: values, layer.norm)),
    "training": lambda layer: layer.eval(),
    "a hook": lambda layer: layer.inner.register_forward_hook(lambda *given: None),
    "the type of weights": lambda layer: layer.inner.to(torch.bfloat16),
    "how weights lie": lambda layer: setattr(layer.inner.weight, "data", layer.inner.weight.data.t()),
    "a part more": lambda layer: setattr(layer, "more", nn.Identity()),
    "another part": lambda layer: setattr(layer, "norm", nn.RMSNorm(3)),
    "a buffer": lambda layer: layer.register_buffer("more", torch.ones(1)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_a_recording_follows_from_changes_the_key(name):
    before = key(Layer())
    changed = Layer(seed=1)
    assert key(changed) == before is not None, "weights' values are read at every call"
    CHANGES[name](changed)
    assert key(changed) not in (before, None)


def test_what_is_given_and_what_torch_is_told_change_it(monkeypatch):
    keys = [key(Layer()), key(Layer(), (1, "b")), key(Layer(), (True, "a"))]
    monkeypatch.setattr(torch._inductor.config, "epilogue_fusion", False)
    keys.append(key(Layer()))
    torch.backends.cuda.enable_flash_sdp(False)
    keys.append(key(Layer()))
    torch.backends.cuda.enable_flash_sdp(True)
    assert len(set(keys)) == 5 and None not in keys


def test_functions_of_one_name_are_told_apart_by_what_they_hold_and_do():
    def scaled(by: float) -> Callable:
        return lambda values: values * by

    layers = [Layer() for _ in range(5)]
    for layer, act in zip(layers, (scaled(1.0), scaled(1.0), scaled(2.0), lambda x: x, lambda x: -x), strict=True):
        layer.act = act
    keys = [key(layer) for layer in layers]
    assert keys[0] == keys[1] and len(set(keys)) == 4 and None not in keys


@pytest.mark.parametrize(
    "value",
    [torch.ones(1), object(), torch, nn.Linear(2, 2), [object()]],
    ids=["a tensor", "an object", "a Python module", "a module elsewhere", "an object within"],
)
def test_what_cannot_be_told_has_no_key(value):
    layer = Layer()
    vars(layer)["other"] = value
    assert key(layer) is None


def test_what_holds_itself_has_no_key():
    layer = Layer()
    layer.many.append(layer.many)
    assert key(layer) is None


def test_other_code_changes_it(tmp_path: Path, monkeypatch):
    source = tmp_path / "code_of_mine.py"
    monkeypatch.syspath_prepend(tmp_path)
    source.write_text("def act(values):\n    return values\n")
    import code_of_mine

    layer = Layer()
    layer.act = code_of_mine.act
    before = key(layer)
    source.write_text("def act(values):\n    return values + 1\n")
    assert key(layer) not in (before, None)


def test_a_models_key_is_the_same_from_wherever_it_was_read(settings, tmp_path):
    """Processors and configurations of diffusers included."""
    keys = set()
    for seed in (0, 1):
        save(create(settings(), draw_pictures(0, 4), seed), tmp_path / f"model-{seed}")
        keys.add(key(load(tmp_path / f"model-{seed}").unet))
    assert len(keys) == 1 and None not in keys
    changed = load(tmp_path / "model-0").unet
    next(iter(changed.attn_processors.values())).layer = "other"
    assert key(changed) not in keys
    processors = {name: attention.ContextAttention() for name in changed.attn_processors}
    changed.set_attn_processor(processors)
    assert key(changed) not in keys


@pytest.fixture
def recordings(monkeypatch) -> list[int]:
    made: list[int] = []
    make = precompiled.make_fx
    monkeypatch.setattr(precompiled, "make_fx", lambda run: made.append(1) or make(run))
    return made


def call(layer: nn.Module, values: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return Precompiled(type(layer).forward, layer)(values)


def test_kernels_that_are_kept_are_loaded_without_a_recording(cache: CompileCache, recordings):
    values = torch.randn(2, 3)
    with cache.turn(print):
        for seed in (0, 1, 2):
            layer = Layer(seed)
            assert torch.allclose(call(layer, values), layer(values), atol=1e-6)
            assert recordings == [1]
        layer.scale = 3.0
        assert torch.allclose(call(layer, values), layer(values), atol=1e-6)
        assert recordings == [1, 1]


@pytest.mark.parametrize("damage", ["cut short", "empty", "other bytes", "no structure"])
def test_damaged_kernels_are_made_again(cache: CompileCache, recordings, damage):
    layer, values = Layer(), torch.randn(2, 3)
    with cache.turn(print):
        expected = call(layer, values)
        (kept,) = cache.folder.glob("recorded/*.kernels")
        whole = kept.read_bytes()
        match damage:
            case "cut short":
                kept.write_bytes(whole[: len(whole) // 2])
            case "empty":
                kept.write_bytes(b"")
            case "other bytes":
                kept.write_bytes(b"\x07" * len(whole))
            case "no structure":
                kept.with_suffix(".json").write_text("{")
        for made in (2, 2):
            assert torch.equal(call(layer, values), expected)
            assert len(recordings) == made


def test_a_constant_of_its_own_is_recorded_each_time(cache: CompileCache, recordings):
    """Its value is in the kernels, and nothing that is known beforehand says it."""

    class Constant(nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values + torch.tensor([1.0, 2.0, 3.0])

    layer, values = Constant(), torch.zeros(2, 3)
    with cache.turn(print):
        for _ in range(2):
            assert torch.equal(call(layer, values), layer(values))
    assert len(recordings) == 2
    assert not list(cache.folder.glob("recorded/*"))


def test_a_full_disk_does_not_lose_the_kernels_at_hand(cache: CompileCache, recordings):
    layer, values = Layer(), torch.randn(2, 3)
    with cache.turn(print):
        (cache.folder / "recorded").write_text("no folder")
        assert torch.allclose(call(layer, values), layer(values), atol=1e-6)

"""Kernels that are found again without a recording: only where a recording would be the same."""

import functools
import math
import random
from collections import defaultdict
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


class Slotted:
    __slots__ = ("value",)


class Weight:
    def __init__(self, *shape: int) -> None:
        self.weight = torch.ones(shape)


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


def test_what_is_given_and_what_torch_is_told_change_it():
    keys = [key(Layer()), key(Layer(), (1, "b")), key(Layer(), (True, "a"))]
    with torch._inductor.config.patch(epilogue_fusion=False):
        keys.append(key(Layer()))
    torch.backends.cuda.enable_flash_sdp(False)
    keys.append(key(Layer()))
    torch.backends.cuda.enable_flash_sdp(True)
    assert len(set(keys)) == 5 and None not in keys


def test_functions_of_one_name_are_told_apart_by_what_they_hold_and_do():
    def scaled(by: float) -> Callable:
        return lambda values: values * by

    # one line, so that they differ in nothing else
    beside = (lambda x: functional.silu(x)), (lambda x: functional.gelu(x)), (lambda x: x.sum((0, 1))), (lambda x: x.sum((1,)))  # noqa: E501  # fmt: skip
    acts = [scaled(1.0), scaled(1.0), scaled(2.0), *beside]
    layers = [Layer() for _ in acts]
    for layer, act in zip(layers, acts, strict=True):
        layer.act = act
    keys = [key(layer) for layer in layers]
    assert keys[0] == keys[1] and len(set(keys)) == len(acts) - 1 and None not in keys


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


def test_other_code_changes_it_and_code_that_changed_meanwhile_has_none(tmp_path: Path, monkeypatch):
    source, beside = tmp_path / "code_of_mine.py", tmp_path / "helper.py"
    monkeypatch.syspath_prepend(tmp_path)
    source.write_text("def act(values):\n    return values\n")
    import code_of_mine

    layer = Layer()
    layer.act = code_of_mine.act
    assert key(layer) is None, "what was imported may have been what the file was before"
    monkeypatch.setattr(fingerprint, "_born", lambda: math.inf)
    keys = [key(layer)]
    source.write_text("def act(values):\n    return values + 1\n")
    keys.append(key(layer))
    beside.write_text("")
    keys.append(key(layer))
    assert len(set(keys)) == 3 and None not in keys


def test_where_a_part_or_a_tensor_stands_more_than_once_changes_it():
    first, second, act = nn.Linear(4, 4), nn.Linear(4, 4), nn.SiLU()
    others = [
        nn.Sequential(first, act, second), nn.Sequential(first, act, second, act), nn.Sequential(first, second, first),
        nn.Sequential(first, second, second), nn.Sequential(first, second), nn.Sequential(second, act, first, first),
    ]  # fmt: skip
    assert len({key(one) for one in others}) == len(others)

    def tied(to: int) -> nn.Module:
        three = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
        three[2].weight = three[to].weight
        return three

    assert key(tied(0)) != key(tied(1)) is not None
    absent = Layer()
    absent.register_module("more", None)
    assert key(absent) != key(Layer())


def test_what_somebody_set_in_a_class_changes_it(monkeypatch):
    def scaled(by: float) -> Callable:
        return lambda self, values: values * by

    keys = [key(Layer())]
    monkeypatch.setattr(Processor, "limit", 3, raising=False)
    keys.append(key(Layer()))
    monkeypatch.setattr(Processor, "limit", 4, raising=False)
    keys.append(key(Layer()))
    for by in (2.0, 3.0):
        monkeypatch.setattr(Processor, "__call__", property(scaled(by)))
        keys.append(key(Layer()))
    monkeypatch.setattr(nn.LayerNorm, "forward", lambda self, values: values)
    keys.append(key(Layer()))
    assert len(set(keys)) == 6 and None not in keys


@pytest.mark.parametrize(
    "value",
    [defaultdict(float), Slotted(), type("Kind", (float,), {})(1.0), {"a": 2.0}.get, random.Random(0), Weight(3, 3)],
    ids=["a default", "slots", "a number that is more", "a dictionary's method", "chance", "a tensor in an object"],
)
def test_what_holds_more_than_it_shows_has_no_key(value):
    layer = Layer()
    layer.other = value
    assert key(layer) is None


def test_what_acts_on_every_module_and_function_has_no_key(monkeypatch):
    handle = nn.modules.module.register_module_forward_hook(lambda *given: None)
    assert key(Layer()) is None
    handle.remove()
    with torch.device("cpu"):
        assert key(Layer()) is None
    monkeypatch.setattr(functional, "scaled_dot_product_attention", lambda *given: None)
    assert key(Layer()) is None
    monkeypatch.undo()
    with torch._inductor.config.patch(post_grad_custom_post_pass=lambda graph: None):
        assert key(Layer()) is None
    assert key(Layer()) is not None


@pytest.mark.parametrize("of", [torch.backends.cuda.matmul, torch.backends.cudnn.conv], ids=["product", "convolution"])
def test_how_torch_rounds_changes_it(of):
    before, said = key(Layer()), of.fp32_precision
    try:
        of.fp32_precision = "ieee"
        assert key(Layer()) not in (before, None)
    finally:
        of.fp32_precision = said


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

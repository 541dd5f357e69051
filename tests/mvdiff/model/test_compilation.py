"""Compiled kernels: the same pictures, made once a node, from a cache that nobody else can write."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch.fx import GraphModule

from mvdiff.errors import InputError
from mvdiff.model import compilation, precompiled
from mvdiff.model.build import create
from mvdiff.model.compilation import CompileCache, compiled, refuse_compiling
from mvdiff.model.pipeline import MultiViewPipeline
from mvdiff.model.sampler import SAMPLERS
from tests.mvdiff.model.conftest import awake, draw_pictures

CPU = torch.device("cpu")
ROOT = os.getuid() == 0


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[GraphModule]:
    """What is recorded, run as it is: of Inductor's kernels the model has so many that a C++ compiler takes minutes."""
    recorded: list[GraphModule] = []
    monkeypatch.setattr(precompiled, "kernels", lambda graph, dataless: recorded.append(graph) or graph)
    monkeypatch.setattr(precompiled, "keep", lambda key, made, structure: None)
    return recorded


def test_what_runs_compiled_is_the_same_for_every_batch(settings, disk, graphs):
    model = awake(create(settings(reference="noised"), draw_pictures(0, 4), 0))
    pictures = draw_pictures(5, 3)[:, 0]
    asked = {"steps": 3, "guidance": 2.0}
    eager = MultiViewPipeline(model)(pictures, seeds=[7, 8, 9], **asked)
    chosen = MultiViewPipeline(model)
    assert chosen.compile(3, guidance=2.0).folder.is_relative_to(disk)
    assert len(graphs) == 2, "one for the reference, the blank one too, and one for the views"
    views = chosen(pictures, seeds=[7, 8, 9], **asked)
    assert np.abs(views.astype(int) - eager).max() <= 1
    beside = chosen([*(255 - pictures[:1]), *pictures[1:]], seeds=[1, 8, 9], **asked)
    assert np.array_equal(beside[1:], views[1:]) and not np.array_equal(beside[0], views[0])
    assert np.array_equal(chosen(pictures[:1], seeds=[7], **asked)[0], views[0])
    chosen(pictures[:2], seeds=[7, 8], steps=7, guidance=3.0, guidance_interval=(0.2, 0.6), reference_view=1)
    assert len(graphs) == 2, "something was compiled outside of its turn"
    with pytest.raises(InputError, match="4 pictures in a call: give 3"):
        chosen([*pictures, pictures[0]], seeds=range(4), steps=1)


def test_earlier_calls_change_no_bit_of_compiled_views(start, disk, graphs):
    """Those of this pipeline, eager ones too, and failed attempts to compile it."""
    pictures = draw_pictures(5, 2)[:, 0]
    calls = [{"steps": 5, "guidance_interval": interval} for interval in ((0.3, 0.6), (0.0, 1.0))] + [{"steps": 4}]

    def compiled_for_two():
        made = MultiViewPipeline(start())
        made.own()
        made.compile(2, guidance=4.0)
        return made

    used = MultiViewPipeline(start())
    used.own()
    used(pictures, seeds=[4, 5], guidance=4.0, **calls[-1])
    with pytest.raises(InputError, match="compiling for 0 pictures: give 1 or more"):
        used.compile(0)
    used.compile(2, guidance=4.0)
    for call in calls:
        fresh = compiled_for_two()(pictures, seeds=[4, 5], guidance=4.0, **call)
        assert np.array_equal(used(pictures, seeds=[4, 5], guidance=4.0, **call), fresh)


def test_weights_of_another_model_count_after_compiling_too(settings, disk, graphs):
    first, second = (awake(create(settings(), draw_pictures(0, 4), seed)) for seed in (0, 1))
    pictures = draw_pictures(5, 1)[:, 0]
    expected = MultiViewPipeline(second)(pictures, seeds=[7], steps=2)
    chosen = MultiViewPipeline(first)
    chosen.compile(1)
    before = chosen(pictures, seeds=[7], steps=2)
    assert np.abs(before.astype(int) - expected).max() > 9
    first.load_state_dict(second.state_dict(), assign=True)
    assert np.abs(chosen(pictures, seeds=[7], steps=2).astype(int) - expected).max() <= 1


def test_a_pipeline_that_could_not_be_compiled_works_as_before(start, disk, graphs, monkeypatch):
    model = start()
    pictures = draw_pictures(5, 2)[:, 0]
    chosen = MultiViewPipeline(model)
    expected = chosen(pictures, seeds=[7, 8], steps=1)

    def fail(graph, dataless):
        if len(graphs) == 3:
            raise RuntimeError("no kernels")
        graphs.append(graph)
        return graph

    monkeypatch.setattr(precompiled, "kernels", fail)
    with pytest.raises(RuntimeError, match="no kernels"):
        chosen.compile(1)
    assert len(graphs) == 3, "the views' pass was not what failed"
    # its norms round otherwise from then on
    assert np.abs(chosen(pictures, seeds=[7, 8], steps=1).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("options", [{}, {"layout": "tile", "camera": "none"}], ids=["views", "tile"])
def test_an_autoencoder_and_lower_precision_are_recorded_as_they_run(start, disk, graphs, options):
    pictures = draw_pictures(5, 2)[:, 0]
    exact, eager = (
        MultiViewPipeline(start(**options), "cpu", precision)(pictures, seeds=[7, 8], steps=2).astype(int)
        for precision in ("no", "bf16")
    )
    chosen = MultiViewPipeline(start(**options), "cpu", "bf16")
    chosen.compile(2)
    assert len(graphs) == 4, "the autoencoder's two parts too"
    views = chosen(pictures, seeds=[7, 8], steps=2)
    assert 0 < np.abs(views - exact).mean() < 1.2 * np.abs(eager - exact).mean()
    casts = [node for node in graphs[3].graph.nodes if node.kwargs.get("dtype") == torch.bfloat16]
    assert casts, "what autocast said was not recorded"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_nothing_is_compiled_in_the_first_call_of_any_sampler(start, disk, graphs, sampler):
    chosen = MultiViewPipeline(start())
    chosen.compile(1, sampler)
    ready = len(graphs)
    chosen(draw_pictures(5, 1)[:, 0], seeds=[7], steps=3, sampler=sampler)
    assert len(graphs) == ready == 4


def test_kernels_are_of_what_a_function_is_given(cache):
    """Each shape and flag has kernels of its own; weights are read at every call."""

    def scaled(layer, values, parts, twice):
        total = layer(values) + sum(parts["more"])
        return {"out": total * 2 if twice else total, "in": [values + 1]}

    layer = torch.nn.Linear(3, 3)
    kernels = precompiled.Precompiled(scaled, layer)
    values, parts = torch.randn(2, 3), {"more": (torch.ones(3), torch.ones(3))}
    with cache.turn(print), torch.inference_mode():
        for given in (values, torch.randn(5, 3)):
            for twice in (True, False):
                found, expected = kernels(given, parts, twice), scaled(layer, given, parts, twice)
                assert torch.allclose(found["out"], expected["out"], atol=1e-6)
                assert torch.equal(found["in"][0], given + 1)
        layer.weight.mul_(3)
        assert torch.allclose(kernels(values, parts, True)["out"], scaled(layer, values, parts, True)["out"], atol=1e-6)


def test_a_flag_and_a_number_that_are_equal_are_recorded_each(cache, graphs):
    layer, values = torch.nn.Identity(), torch.tensor([1, 2])
    kernels = precompiled.Precompiled(lambda _, values, by: values * by, layer)
    with cache.turn(print), torch.inference_mode():
        for by in (2, 2.0, True, 1):
            assert kernels(values, by).dtype == (values * by).dtype
    assert len(graphs) == 4


def test_autocast_and_gradients_are_of_the_call(cache, monkeypatch):
    def deaf(graph, dataless):
        """Like kernels: what was recorded, and no more."""

        def run(*tensors):
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                return graph(*tensors)

        return run

    monkeypatch.setattr(precompiled, "kernels", deaf)
    monkeypatch.setattr(precompiled, "keep", lambda key, made, structure: None)
    layer, values = torch.nn.Linear(3, 3), torch.randn(2, 3)
    kernels = precompiled.Precompiled(torch.nn.Linear.forward, layer)
    with torch.inference_mode():
        for _ in range(2):
            assert kernels(values).dtype == torch.float32
            with torch.autocast("cpu", torch.bfloat16):
                assert kernels(values).dtype == torch.bfloat16
    kernels(values).sum().backward()
    assert layer.weight.grad is not None


WORKER = """
import sys, torch
from mvdiff.model.compilation import OPTIONS, CompileCache, compiled
from mvdiff.model.precompiled import Precompiled
class Layer(torch.nn.Module):
    def forward(self, values):
        return torch.sin(values) + 1
layer = Layer()
def work():
    if sys.argv[1] == "traced":
        layer.compile(fullgraph=True, dynamic=False, options=OPTIONS)
    else:
        layer.forward = Precompiled(Layer.forward, layer)
    with torch.inference_mode():
        layer(torch.ones(2, 4))
made = compiled(CompileCache.of(torch.device("cpu"), {}), work, lambda line: None)
print(made.graphs, made.cached)
"""


@pytest.mark.parametrize("how", ["traced", "precompiled"])
def test_of_two_workers_that_start_together_one_compiles(tmp_path, how):
    surroundings = {**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, how], env=surroundings, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = sorted(worker.communicate(timeout=200)[0].strip() for worker in workers)
    assert said == ["1 0", "1 1"]


HOLDER = """
import fcntl, sys
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_worker_waits_for_the_one_that_compiles_until_it_is_dead(cache):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(cache.folder / "lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    told, entered = threading.Event(), threading.Event()

    def wait() -> None:
        with cache.turn(lambda line: told.set()):
            entered.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert told.wait(10) and not entered.is_set()
    holder.send_signal(signal.SIGKILL)
    waiter.join(10)
    assert entered.is_set()
    holder.communicate()


def test_when_one_has_compiled_the_others_need_not_wait_for_each_other(cache):
    with cache.turn(print):
        pass
    told: list[str] = []
    with cache.turn(told.append), cache.turn(told.append):
        assert told == []


def test_a_worker_that_fails_leaves_the_turn_to_the_next(cache):
    def fail() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        compiled(cache, fail, print)
    told: list[str] = []
    with cache.turn(told.append), pytest.raises(BlockingIOError):
        _lock(cache)
    assert told == []


def _lock(cache: CompileCache) -> None:
    import fcntl

    with (cache.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_compiles_to_something_else_has_a_cache_of_its_own(cache):
    assert CompileCache.of(CPU, {"size": 1}) == cache != CompileCache.of(CPU, {"size": 2})
    assert [folder.stat().st_mode & 0o777 for folder in (cache.folder, cache.folder.parent)] == [0o700] * 2


def test_a_cache_is_made_with_the_folders_above_it(disk, monkeypatch):
    monkeypatch.setenv(compilation.CACHE, str(disk / "scratch" / "mine"))
    assert CompileCache.of(CPU, {}).folder.is_dir()
    (disk / "file").touch()
    monkeypatch.setenv(compilation.CACHE, str(disk / "file" / "mine"))
    with pytest.raises(InputError, match=r"cannot be made \(Not a directory\): let MVDIFF_CACHE name"):
        CompileCache.of(CPU, {})


@pytest.mark.parametrize("which", ["cache", "its parent"])
def test_a_cache_that_is_open_to_others_is_refused(cache, which):
    (cache.folder if which == "cache" else cache.folder.parent).chmod(0o770)
    with pytest.raises(InputError, match="open to others"):
        CompileCache.of(CPU, {"size": 1})


def test_a_link_is_no_cache(cache, disk):
    away = disk / "away"
    cache.folder.parent.rename(away)
    cache.folder.parent.symlink_to(away)
    with pytest.raises(InputError, match="own folder"):
        CompileCache.of(CPU, {"size": 1})


@pytest.mark.skipif(not ROOT, reason="gives folders to another user")
def test_a_cache_of_somebody_else_is_refused(cache):
    os.chown(cache.folder.parent, 4321, -1)
    with pytest.raises(InputError, match="own folder"):
        CompileCache.of(CPU, {"size": 1})


@pytest.mark.skipif(not ROOT, reason="gives folders to another user")
def test_a_cache_that_somebody_else_can_replace_is_refused(cache, disk):
    os.chown(disk, 4321, -1)
    disk.chmod(0o1777)
    CompileCache.of(CPU, {"size": 1})
    disk.chmod(0o777)
    with pytest.raises(InputError, match="written by others"):
        CompileCache.of(CPU, {"size": 1})


@pytest.mark.parametrize(("device", "variable"), [("cpu", "CXX"), ("cuda", "CC")])
def test_without_a_compiler_it_is_refused_in_one_line(monkeypatch, tmp_path, device, variable):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(InputError, match=r"no compiler .*generate\.compile=false") as refusal:
        refuse_compiling(torch.device(device))
    assert "\n" not in str(refusal.value)
    monkeypatch.setenv(variable, sys.executable)
    refuse_compiling(torch.device(device))

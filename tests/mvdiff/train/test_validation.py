"""Validations by one process here, and by several that a fork server starts."""

import io
import multiprocessing
import random
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mvdiff.errors import InputError
from mvdiff.evaluate.consistency import consistency
from mvdiff.evaluate.foreground import foreground
from mvdiff.evaluate.metrics import scores
from mvdiff.evaluate.sheet import LABELS
from mvdiff.lettering import LINE, line
from mvdiff.model.batch import TrainingBatch
from mvdiff.model.build import create
from mvdiff.model.multiview import MultiViewModel
from mvdiff.model.pipeline import MultiViewPipeline
from mvdiff.model.settings import ModelSettings
from mvdiff.rig import rig
from mvdiff.shard import Sample, ShardDataset, ShardWriter
from mvdiff.train.settings import TrainSettings
from mvdiff.train.validation import SCORES, Trial, Validation, _seed, publish_sheet
from mvdiff.train.world import Group, World, joined
from tests.mvdiff.model.conftest import SIZE, awake, draw_pictures, tiny_values

CONFIGS = Path(__file__).parents[3] / "configs"
SAMPLES = 7
TILE = 128


def make_sample(number: int) -> Sample:
    mouse = rig("mouse")
    return Sample(
        f"sample-{number}", "one", draw_pictures(100 + number, 1)[0], None, mouse.w2c(), mouse.intrinsics(SIZE),
        np.float32(mouse.azimuth), np.float32(mouse.elevation),
    )  # fmt: skip


def write(path: Path, *numbers: int) -> None:
    with ShardWriter(path, size=SIZE, rig="mouse", codec="raw", with_alpha=False) as writer:
        for number in numbers:
            writer.append(make_sample(number))
        writer.publish()


@pytest.fixture(scope="module")
def heldout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine samples, of which seven are tried: two slices of three, and one of one."""
    folder = tmp_path_factory.mktemp("heldout")
    write(folder / "a.h5", *range(9))
    return folder


def make_model(sampler: str = "ddim") -> MultiViewModel:
    values = tiny_values() | {"size": SIZE, "condition_size": SIZE, "sampler": sampler}
    values["new"] |= {"patch": 8, "latent_channels": 6, "widths": [16, 16], "head_width": 8}
    values["new"] |= {"condition_grid": 2, "context_width": 16, "norm_groups": 4}
    return awake(create(ModelSettings.read(values), iter(draw_pictures(0, 4)), seed=0)).requires_grad_(False)


@pytest.fixture
def model() -> MultiViewModel:
    return make_model()


def make_settings(mixed_precision: str = "no", **overrides: Any) -> TrainSettings:
    values = yaml.safe_load((CONFIGS / "train" / "default.yaml").read_text())
    values["mixed_precision"] = mixed_precision
    values["validation"] |= {"samples": SAMPLES, "batch": 3, "steps": 2, "guidance": 2.0, "sheet": 5} | overrides
    return TrainSettings.read(values)


@contextmanager
def alone() -> Iterator[Group]:
    with joined(World(0, 1, 0, "127.0.0.1", 0), "no") as group:
        yield group


def no_corruption(sample_id: str, why: str) -> None:
    raise AssertionError(f"{sample_id}: {why}")


def tried(
    model: MultiViewModel,
    heldout: Path,
    settings: TrainSettings | None = None,
    quarantine: Callable[[str, str], None] = no_corruption,
) -> Trial:
    with alone() as group:
        trial = Validation(ShardDataset(heldout), settings or make_settings(), model, group, quarantine).run(
            lambda: False
        )
    assert trial is not None
    return trial


def chosen(model: MultiViewModel, heldout: Path, samples: int) -> list[Sample]:
    """The samples that are tried, in their order."""
    with alone() as group:
        validation = Validation(ShardDataset(heldout), make_settings(samples=samples), model, group, no_corruption)
    return [sample for own in validation._own for sample in own]


def validate_rank(heldout: Path, world: World, stop: tuple[int, int] | None, fault: str | None) -> dict[str, Any]:
    """One rank's validation. ``stop``: the rank and the look at which its stop flag is up.

    ``fault``: what goes wrong on rank 1."""
    torch.set_num_threads(1)
    looks = iter(range(100))
    counted: list[int] = []
    with joined(world, "no") as group:
        validation = Validation(ShardDataset(heldout), make_settings(), make_model(), group, no_corruption)
        if fault and world.rank == 1:
            error = {"memory": torch.OutOfMemoryError("full"), "numbers": FloatingPointError("nan")}[fault]

            def failing(*_: Any, **__: Any) -> None:
                raise error

            validation._pipeline = failing  # type: ignore[assignment]
        try:
            trial = validation.run(lambda: (world.rank, next(looks)) == stop, counted.append)
        except (InputError, FloatingPointError) as error:
            return {"error": type(error).__name__, "text": str(error)}
    return {"trial": trial, "counted": counted}


@pytest.fixture(scope="module")
def ranks(heldout: Path) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Validations by a number of processes at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mvdiff.train.validation", "mvdiff.train.world"])
    with ProcessPoolExecutor(4, context) as pool:

        def run(world_size: int, stop: tuple[int, int] | None = None, fault: str | None = None) -> list[dict[str, Any]]:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            worlds = [World(rank, world_size, rank, "127.0.0.1", port) for rank in range(world_size)]
            futures = [pool.submit(validate_rank, heldout, world, stop, fault) for world in worlds]
            return [future.result() for future in futures]

        yield run


def test_every_number_of_ranks_finds_the_same_bits(model, heldout, ranks):
    one = tried(model, heldout)
    for world_size in (2, 4):
        told = ranks(world_size)
        for rank, answer in enumerate(told):
            trial = answer["trial"]
            assert trial.scores == one.scores and trial.samples == SAMPLES
            assert (trial.sheet is not None) == (rank == 0)
        assert np.array_equal(told[0]["trial"].sheet, one.sheet)
        assert told[0]["counted"] == {2: [6, 1], 4: [7]}[world_size]


def test_the_scores_are_those_of_what_the_pipeline_generates(model, heldout):
    trial = tried(model, heldout, make_settings(samples=1, steps=None, guidance=None))
    (truth,) = chosen(model, heldout, 1)
    views = MultiViewPipeline(model)([truth.views[0]], seeds=[_seed(truth.sample_id)])[0]
    found = scores(views, foreground(views), truth.views, foreground(truth.views), 0)
    expected = {name: figure.all_views for name, figure in found.items()}
    expected["silhouette"] = consistency(views, foreground(views), truth.w2c, truth.intrinsics)["silhouette"]
    assert sorted(trial.scores) == sorted(SCORES)
    assert trial.scores == expected
    assert trial.seconds > 0


def test_a_model_that_draws_the_truth_scores_best(model, heldout, monkeypatch):
    views = {sample.views[0].tobytes(): sample.views for sample in ShardDataset(heldout)}
    monkeypatch.setattr(
        MultiViewPipeline, "__call__", lambda _, pictures, *rest, **options: [views[one.tobytes()] for one in pictures]
    )
    found = tried(model, heldout).scores
    assert found["foreground_psnr"] == found["psnr"] == pytest.approx(58.9, abs=0.05)
    assert found["ssim"] == found["foreground_iou"] == 1
    assert found["colour_shift"] == 0


def test_the_same_model_scores_the_same_again(model, heldout):
    with alone() as group:
        validation = Validation(ShardDataset(heldout), make_settings(), model, group, no_corruption)
        first, again = validation.run(lambda: False), validation.run(lambda: False)
        assert first.scores == again.scores == tried(model, heldout).scores
        assert np.array_equal(first.sheet, again.sheet)
        with torch.no_grad():
            model.unet.conv_out.weight.mul_(1.5)
        other = validation.run(lambda: False)
    assert all(other.scores[name] != first.scores[name] for name in ("foreground_psnr", "psnr", "ssim", "colour_shift"))


def test_the_samples_do_not_depend_on_shards_or_on_the_training_seed(model, heldout, tmp_path):
    write(tmp_path / "a.h5", 8, 1, 5)
    write(tmp_path / "b.h5", 0, 7, 6, 4, 3, 2)
    first = tried(model, heldout)
    assert tried(model, tmp_path).scores == first.scores
    assert tried(model, heldout, replace(make_settings(), seed=5)).scores == first.scores


@pytest.mark.parametrize(
    "other",
    [{"samples": 6}, {"steps": 3}, {"guidance": 3.0}, {"mixed_precision": "bf16"}],
    ids=lambda one: next(iter(one)),
)
def test_every_setting_counts(model, heldout, other):
    assert tried(model, heldout, make_settings(**other)).scores != tried(model, heldout).scores


def test_more_samples_than_there_are_is_all_of_them(model, heldout):
    trial = tried(model, heldout, make_settings(samples=100, sheet=100))
    assert trial.samples == 9
    assert trial.sheet.shape[0] > 9 * 2 * TILE


@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
def test_model_and_random_state_stay_as_they_are(heldout, mixed_precision):
    model = make_model("ddim")
    model.context.requires_grad_(True)

    def state() -> bytes:
        out = io.BytesIO()
        torch.save(
            [
                model.state_dict(),
                [(weight.requires_grad, weight.dtype) for weight in model.parameters()],
                [module.training for module in model.modules()],
                torch.get_rng_state(), np.random.get_state(), random.getstate(), torch.is_grad_enabled(),
            ], out,
        )  # fmt: skip
        return out.getvalue()

    before = state()
    tried(model, heldout, make_settings(mixed_precision))
    assert state() == before


def test_training_goes_on_afterwards_as_if_nothing_had_been(heldout):
    def gradients(validate: bool) -> list[torch.Tensor]:
        averaged = make_model()
        averaged.unet.requires_grad_(True)
        twin = averaged.twin().train()
        averaged.requires_grad_(False)
        if validate:
            tried(averaged, heldout)
        views = torch.from_numpy(draw_pictures(1, 2))
        cameras = torch.from_numpy(twin.settings.cameras.relative(0)).repeat(2, 1, 1)
        generator = torch.Generator().manual_seed(0)
        noise = {name: torch.randn(2, *shape, generator=generator) for name, shape in twin.noise_shapes.items()}
        glance = torch.zeros(2, 0, 0, 3, dtype=torch.uint8)
        batch = TrainingBatch(
            ["a", "b"], views, views[:, 0], glance, cameras, torch.tensor([3, 700]), noise, torch.tensor([False, True])
        )
        twin(batch).sum().backward()
        return [weight.grad for weight in twin.unet.parameters() if weight.grad is not None]

    with_validation, without = gradients(True), gradients(False)
    assert len(without) > 10
    assert all(torch.equal(a, b) for a, b in zip(with_validation, without, strict=True))


@pytest.mark.parametrize(("rank", "look"), [(0, 0), (1, 1)])
def test_a_stop_in_the_middle_gives_it_up_on_all_ranks(ranks, rank, look):
    told = ranks(2, stop=(rank, look))
    assert [answer["trial"] for answer in told] == [None, None]
    assert [answer["counted"] for answer in told] == [[6][:look]] * 2


def test_a_stop_that_comes_after_the_last_round_gives_nothing_up(ranks):
    assert None not in [answer["trial"] for answer in ranks(2, stop=(1, 2))]


def test_a_failure_of_one_rank_is_an_error_of_all(ranks):
    told = ranks(2, fault="memory")
    assert [answer["error"] for answer in told] == ["InputError"] * 2
    assert "train.validation.batch=3" in told[0]["text"]
    assert [answer["error"] for answer in ranks(2, fault="numbers")] == ["FloatingPointError"] * 2


def damage(path: Path, *numbers: int) -> None:
    """Flip a bit in the pixels of these samples."""
    content = bytearray(path.read_bytes())
    for number in numbers:
        pixels = make_sample(number).views[3].tobytes()
        content[content.index(pixels) + len(pixels) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_sample_is_told_once_and_passed_over(model, heldout, tmp_path):
    order = [int(sample.sample_id.removeprefix("sample-")) for sample in chosen(model, heldout, 9)]
    bad = order[2]
    write(tmp_path / "damaged.h5", *range(9))
    damage(tmp_path / "damaged.h5", bad)
    write(tmp_path / "good" / "a.h5", *(number for number in range(9) if number != bad))
    told: list[str] = []
    trial = tried(model, tmp_path / "damaged.h5", quarantine=lambda sample_id, why: told.append(sample_id))
    assert told == [f"sample-{bad}"]
    assert trial.samples == SAMPLES, "the next one takes its place"
    assert trial.scores == tried(model, tmp_path / "good").scores


def test_nothing_to_try_it_on_is_an_error(model, tmp_path):
    write(tmp_path / "a.h5", 0, 1)
    damage(tmp_path / "a.h5", 0, 1)
    with pytest.raises(InputError, match="not one of the 2 held-out samples"):
        tried(model, tmp_path, quarantine=lambda sample_id, why: None)


def test_the_sheet_shows_input_and_truth_above_what_was_generated(model, heldout, monkeypatch):
    monkeypatch.setattr(
        MultiViewPipeline,
        "__call__",
        lambda _, pictures, *rest, **options: np.zeros((len(pictures), 6, SIZE, SIZE, 3), np.uint8) + 77,
    )
    settings = make_settings(sheet=5)
    samples = chosen(model, heldout, 5)
    sheet = tried(model, heldout, settings).sheet
    assert sheet.dtype == np.uint8
    strip = LINE + 2 * TILE
    pitch = (len(sheet) - LINE - strip) // 4
    assert sheet.shape == (LINE + 4 * pitch + strip, 7 * TILE + LABELS, 3) and pitch >= strip
    assert np.array_equal(sheet[:LINE, :TILE], line(["input, azimuth 0"], TILE))
    assert np.array_equal(sheet[:LINE, TILE + LABELS :], line([f"azimuth {60 * k}" for k in range(6)], TILE))

    def shown(top: int, left: int) -> np.ndarray:
        return sheet[top : top + TILE, left : left + TILE]

    for number, sample in enumerate(samples):
        large = [
            np.asarray(Image.fromarray(view).resize((TILE, TILE), Image.Resampling.LANCZOS)) for view in sample.views
        ]
        assert np.array_equal(sheet[LINE + number * pitch :][:LINE], line([sample.sample_id], 7 * TILE + LABELS))
        top = 2 * LINE + number * pitch
        for row, word in enumerate(("truth →", "made →")):
            middle = top + row * TILE + TILE // 2
            label = sheet[middle - LINE // 2 : middle + LINE // 2, TILE : TILE + LABELS]
            assert np.array_equal(label, line([word], LABELS)), "at the middle of its row"
            assert (label[:, -1] == 255).all(), "and whole"
        assert np.array_equal(shown(top + TILE // 2, 0), large[0])
        for k in range(6):
            left = (k + 1) * TILE + LABELS
            assert np.array_equal(shown(top, left), large[k])
            assert (shown(top + TILE, left) == 77).all()


def test_a_sheet_is_published_under_its_step(tmp_path):
    sheet = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    path = publish_sheet(sheet, tmp_path / "validation", 50)
    assert path == tmp_path / "validation" / "step-00000050.png"
    assert np.array_equal(np.asarray(Image.open(path)), sheet)
    assert list(path.parent.iterdir()) == [path]


def test_a_sheet_that_does_not_fit_leaves_nothing(small_disk):
    sheet = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3)).astype(np.uint8)
    with pytest.raises(OSError, match="No space left"):
        publish_sheet(sheet, small_disk / "validation", 50)
    assert list((small_disk / "validation").iterdir()) == []

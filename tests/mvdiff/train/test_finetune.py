"""Fine-tuning of published weights: full, in part, by LoRA, with a new word; interrupted and not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from mvdiff.errors import InputError
from mvdiff.model.folder import load
from mvdiff.model.pipeline import MultiViewPipeline
from mvdiff.model.settings import ModelSettings
from mvdiff.rig import rig
from mvdiff.shard import Sample, ShardWriter
from mvdiff.train.checkpoint import CheckpointStore, checkpoint_hash
from mvdiff.train.fitness import needs_origin, refuse_unfit
from mvdiff.train.sources import Sources
from mvdiff.train.state import TrainingState
from tests.mvdiff.model.conftest import smooth_picture
from tests.mvdiff.model.published import write_zero123plus
from tests.mvdiff.train.conftest import Run

SIZE = 64


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples of 64 pixels."""
    mouse = rig("mouse")
    folder = tmp_path_factory.mktemp("pictures")
    with ShardWriter(folder / "a.h5", size=SIZE, rig="mouse", codec="raw", with_alpha=False) as writer:
        for number in range(6):
            views = np.stack([smooth_picture(6 * number + k, SIZE) for k in range(6)])
            azimuth, elevation = np.float32(mouse.azimuth), np.float32(mouse.elevation)
            writer.append(
                Sample(f"s-{number}", "one", views, None, mouse.w2c(), mouse.intrinsics(SIZE), azimuth, elevation)
            )
        writer.publish()
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zero123plus(tmp_path_factory.mktemp("weights") / "zero123plus")


@pytest.fixture
def runs(tmp_path: Path, pictures: Path, weights: Path):
    def build(name: str, **overrides) -> Run:
        settings = ModelSettings.read(
            {
                "name": "large", "pretrained": str(weights), "pretrained_rig": "zero123plus-v1.2", "mapping": "order",
                "accept_half": False, "rig": "mouse", "size": SIZE, "condition_size": SIZE, "layout": "views",
                "camera": "adaln", "reference": "noised", "prompt": "text", "prompt_text": "a laboratory mouse",
                "sampler": "ddim", "steps": 2, "guidance": 2.0, "new": None,
            }
            | overrides
        )  # fmt: skip
        return Run(tmp_path / name, pictures, settings)

    return build


@pytest.fixture
def plan(settings):
    def build(**overrides):
        values = {"steps": 3, "batch": 2, "micro_batch": 2, "learning_rate": 1e-3, "warmup_steps": 0}
        return settings(**values | {"reference_view": "first"} | overrides)

    return build


def newest(run: Run) -> Path:
    path = CheckpointStore(run.checkpoints).newest_good()
    assert path is not None
    return path


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.parent.name}/{name}": tensor
        for file in sorted(path.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


WAYS = {
    "full": ({}, {}),
    "freeze_encoder": ({"trainable": "freeze_encoder"}, {}),
    "lora": ({"trainable": "lora", "lora_rank": 4}, {}),
    "word": ({}, {"prompt": "token", "prompt_text": "a [MOUSE]"}),
    "lora and word": ({"trainable": "lora"}, {"prompt": "token", "prompt_text": "a [MOUSE]"}),
    "learnable prompt": ({}, {"prompt": "learnable"}),
    "tile": ({}, {"layout": "tile", "camera": "none"}),
    "checkpointing": ({"gradient_checkpointing": True}, {"camera": "concat"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_interrupted_run_ends_with_the_same_bits(runs, plan, way):
    training, model = WAYS[way]
    calm, broken = runs("calm", **model), runs("broken", **model)
    settings = plan(**training)
    assert calm.train(settings) == "done"
    assert broken.train(settings, stop_at=1) == "stopped"
    assert broken.train(settings) == "done"
    one, other = weights_of(newest(calm)), weights_of(newest(broken))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_a_frozen_encoder_stays_and_the_rest_learns(runs, plan, weights):
    run = runs("run")
    run.train(plan(trainable="freeze_encoder"))
    before = UNet2DConditionModel.from_pretrained(weights / "unet").state_dict()
    after = UNet2DConditionModel.from_pretrained(newest(run) / "unet").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any(name.startswith("down_blocks") for name in changed)
    assert any(name.startswith("up_blocks") for name in changed)
    assert any(name.startswith("mid_block") for name in changed)


def test_a_lora_is_published_merged_and_beside(runs, plan, weights):
    run = runs("run")
    run.train(plan(trainable="lora", lora_rank=4, learning_rate=1e-2))
    unet, found = UNet2DConditionModel.from_pretrained(
        newest(run) / "unet", low_cpu_mem_usage=False, output_loading_info=True
    )
    assert not any(found[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    base = UNet2DConditionModel.from_pretrained(weights / "unet")
    changed = {name for name, weight in base.state_dict().items() if not torch.equal(weight, unet.state_dict()[name])}
    assert changed
    assert all(name.split(".")[-2] in ("to_q", "to_k", "to_v", "0") for name in changed)
    # diffusers alone puts the adapter on the base and gets the same weights
    name = "pytorch_lora_weights.safetensors"
    base.load_lora_adapter(newest(run) / "unet_lora", prefix=None, weight_name=name)
    base.fuse_lora()
    fused = {name.replace(".base_layer", ""): weight for name, weight in base.state_dict().items()}
    assert all(torch.allclose(fused[name], weight, atol=1e-6) for name, weight in unet.state_dict().items())
    assert sum(file.stat().st_size for file in (newest(run) / "training").iterdir()) < 2_000_000


def test_what_is_published_computes_what_was_trained(runs, plan):
    run = runs("run", prompt="token", prompt_text="a [MOUSE]")
    settings = plan(trainable="lora", learning_rate=1e-2)
    run.train(settings)
    state = TrainingState.read(newest(run), settings, run.model_settings, torch.device("cpu"))
    published = load(newest(run))
    picture = smooth_picture(50, SIZE)
    trained = MultiViewPipeline(state.ema.model)([picture], seeds=[1])
    drawn = MultiViewPipeline(published)([picture], seeds=[1])
    assert np.abs(trained.astype(int) - drawn).max() <= 1


def test_frozen_parts_are_held_once(runs, plan):
    run = runs("run")
    settings = plan(trainable="lora")
    run.train(settings, stop_at=0)
    state = TrainingState.read(newest(run), settings, run.model_settings, torch.device("cpu"))
    averaged = dict(state.ema.model.named_parameters())
    for name, weight in state.model.named_parameters():
        assert (averaged[name] is weight) == (name not in state.trained), name
    assert not any("vae" in name or "vision" in name for name in state.trained)
    assert {name.split(".")[0] for name in state.trained} == {"unet", "camera"}


def test_a_run_outlives_the_weights_it_began_with_unless_it_needs_them_again(runs, plan, tmp_path):
    for training, outlives in ({}, True), ({"trainable": "lora"}, False):
        folder = write_zero123plus(tmp_path / f"base-{outlives}")
        run = runs(f"run-{outlives}", pretrained=str(folder))
        assert run.train(plan(**training), stop_at=1) == "stopped"
        moved = folder.rename(tmp_path / f"moved-{outlives}")
        if not outlives:
            with pytest.raises(InputError, match="there is no folder"):
                run.train(plan(**training))
            run.model_settings = replace(run.model_settings, pretrained=str(moved))
        assert run.train(plan(**training)) == "done"


def test_the_same_lora_has_the_same_hash(runs, plan):
    hashes = set()
    for name in ("one", "other"):
        run = runs(name)
        run.train(plan(trainable="lora", steps=1))
        hashes.add(checkpoint_hash(newest(run)))
    assert len(hashes) == 1


@pytest.mark.parametrize("camera", ["adaln", "concat"])
def test_a_lora_of_another_seed_goes_on_from_what_it_began_with(runs, plan, camera):
    run = runs("run", camera=camera)
    run.train(plan(trainable="lora", seed=3), stop_at=0)
    first = weights_of(newest(run))
    run.train(plan(trainable="lora", seed=3))
    last = weights_of(newest(run))
    assert torch.equal(first["unet/conv_in.weight"], last["unet/conv_in.weight"])


def test_other_weights_in_the_same_place_are_another_run(runs, plan, tmp_path):
    folder = write_zero123plus(tmp_path / "mine", seed=0)
    run = runs("run", pretrained=str(folder))
    run.train(plan(trainable="lora"), stop_at=1)
    write_zero123plus(tmp_path / "mine", seed=1)
    with pytest.raises(InputError, match=r"pretrained\.xxh3 is .* there"):
        run.train(plan(trainable="lora"))


def test_a_lora_of_nothing_is_refused(run, settings):
    with pytest.raises(InputError, match="adapts weights"):
        run.train(settings(trainable="lora"))


def test_a_random_reference_needs_an_even_rig_in_a_tile(runs, plan):
    run = runs("run", layout="tile", camera="none")
    lopsided = {"name": "lopsided", "azimuth": [0, 50, 120, 180, 240, 300], "elevation": [0] * 6, "fov": 30,
                "distance": 1.87}  # fmt: skip
    settings = replace(run.model_settings, rig=lopsided)
    sources = Sources.open(run.data, None, None)
    refuse_unfit(plan(reference_view="random"), run.model_settings, sources)
    with pytest.raises(InputError, match=r"reference_view=random does not fit: lopsided"):
        refuse_unfit(plan(reference_view="random"), settings, sources)


def test_only_what_a_checkpoint_lacks_is_asked_of_the_origin(runs, plan):
    settings = runs("run").model_settings
    assert not needs_origin(plan(), settings)
    assert needs_origin(plan(trainable="lora"), settings)
    assert needs_origin(plan(), replace(settings, prompt="token", prompt_text="[MOUSE]"))


def test_the_card_says_where_it_comes_from_and_what_may_be_done_with_it(runs, plan, weights):
    run = runs("run")
    run.train(plan(trainable="freeze_encoder"))
    card = (newest(run) / "README.md").read_text()
    front = card.split("---")[1]
    assert "license: cc-by-nc-4.0" in front and 'base_model: "zero123plus"' in front
    for told in (
        "6 samples of six views, 64 pixels",
        "mouse (azimuth 0 60 120 180 240 300, elevation 0 0 0 0 0 0",
        '"a laboratory mouse", fixed',
        "3 of 3 at batch 2 (1.00 epochs)",
        "the UNet but for its down blocks",
        "CC-BY-NC 4.0",
    ):
        assert told in card
    assert str(weights.parent) not in card

"""The large model through the commands: refused where its cameras differ, fine-tuned, generated from."""

import json
import signal

import numpy as np
import pytest

from jobs.cli import main
from mvdiff import MultiViewPipeline, ResultStore, ShardDataset
from tests.mvdiff.model.published import write_zero123plus

SMALL = ["model.size=64", "model.condition_size=64", "train=finetune", "train.steps=2", "train.epochs=null",
         "train.batch=2", "train.micro_batch=1", 'train.mixed_precision="no"', "cluster.tasks_per_node=1"]  # fmt: skip


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_zero123plus(tmp_path / "my weights" / "zero123plus-v1.2")
    assert main(["synth", "run=lab", "samples=8", "size=64", "held_out=4", "cluster=here"]) == 0
    return tmp_path / "runs" / "lab"


def train(*words):
    weights = "model.pretrained=my weights/zero123plus-v1.2"
    return main(["train", "run=lab", "data=runs/lab/shards/train", weights, *SMALL, *words])


def test_cameras_that_differ_are_refused_before_anything_is_queued(lab, capsys):
    assert train("model=zero123plus-v1.2") == 2
    told = capsys.readouterr().err
    assert "zero123plus-v1.2 (azimuth 30 90" in told and "mouse (azimuth 0 60" in told and "model.mapping=order" in told
    assert not (lab / "checkpoints").exists() and not any(lab.glob("jobs/*-train"))


@pytest.mark.parametrize("model", ["zero123plus-v1.2", "zero123plus-v1.2-tile"])
def test_from_published_weights_to_views(lab, capsys, model):
    assert train(f"model={model}", "model.mapping=order", "train.trainable=freeze_encoder", "--wait", "--json") == 0
    checkpoint = json.loads(capsys.readouterr().out)["checkpoint"]
    generate = ["generate", "run=lab", "data=runs/lab/shards/heldout", "generate.steps=2", "generate.batch=2",
                "generate.slice=2", "generate.sampler=unipc", "cluster=here"]  # fmt: skip
    assert main(generate) == 0
    store, inputs = ResultStore(lab / "results"), ShardDataset(lab / "shards" / "heldout")
    assert sorted(store.ids()) == sorted(inputs.ids)
    pipeline = MultiViewPipeline.from_pretrained(checkpoint)
    views = pipeline([inputs[0].views[0]], seeds=[0], steps=2)
    assert views.shape == (1, 6, 64, 64, 3) and views.dtype == np.uint8


def test_damaged_weights_are_told_in_one_line(lab, capsys):
    weights = next(lab.parent.parent.glob("my weights/*/unet/*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    assert train("model=zero123plus-v1.2", "model.mapping=order") == 2
    told = capsys.readouterr().err.strip()
    assert "\n" not in told and str(weights) in told


def test_a_damaged_checkpoint_is_named_and_no_other_one_takes_its_place(lab, capsys):
    assert train("model=zero123plus-v1.2", "model.mapping=order", "--wait") == 0
    assert main(["verify", "runs/lab"]) == 0
    assert "2 checkpoints read" in capsys.readouterr().out
    newest = sorted((lab / "checkpoints").glob("step-*"))[-1]
    weights = newest / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 4
    weights.write_bytes(content)
    assert main(["verify", str(newest)]) == 1
    assert f"{newest}: unet/diffusion_pytorch_model.safetensors fails its checksum" in capsys.readouterr().out
    for words in (
        ["generate", "run=lab", "data=runs/lab/shards/heldout", "cluster=here"],
        [
            "train",
            "run=next",
            "data=runs/lab/shards/train",
            "model=zero123plus-v1.2",
            f"model.pretrained={newest}",
            *SMALL,
        ],
    ):
        assert main(words) == 2
        told = capsys.readouterr().err
        assert str(newest) in told and "damaged" in told


def test_a_job_in_this_process_leaves_its_signals_as_they_were(lab):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)]
    assert main(["synth", "run=again", "samples=4", "size=64", "held_out=0", "cluster=here"]) == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)] == before

"""What a run tells, refuses and survives."""

import itertools
import json
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from mvdiff.errors import InputError
from mvdiff.events import read_events
from mvdiff.model.folder import load
from mvdiff.shard import ShardWriter
from mvdiff.train.checkpoint import CheckpointStore, checkpoint_hash, read_manifest
from mvdiff.train.journal import read_losses
from mvdiff.train.trainer import Diverged
from tests.mvdiff.train.conftest import SIZE, Run, make_sample


def kinds(run):
    return [event["kind"] for event in read_events(run.events)]


def test_a_run_from_start_to_end(run, settings):
    plan = settings(steps=12, save_every=4, keep_last=2)
    assert run.train(plan) == "done"

    store = CheckpointStore(run.checkpoints)
    assert store.steps() == [8, 12]
    saved = [event for event in read_events(run.events) if event["kind"] == "checkpoint"]
    assert [event["step"] for event in saved] == [0, 4, 8, 12]
    assert all(event["seconds"] > 0 for event in saved)
    assert saved[-1]["hash"] == checkpoint_hash(store.path(12))

    assert len(read_losses(run.events)) == 12
    assert kinds(run)[0] == "started" and kinds(run)[-1] == "done"
    steps = [event for event in read_events(run.events) if event["kind"] == "step"]
    assert all(event["samples_per_second"] > 0 and 0 <= event["data_wait"] <= 1 for event in steps)

    lines = [line for line in run.lines if line.startswith("step ")]
    assert lines[-1].startswith("step 12/12  epoch 4.80  loss 0.")
    assert all(word in lines[0] for word in ("lr ", "samples/s", "data wait", "ETA"))


def test_it_learns(run, another, settings):
    run.train(settings(steps=12, learning_rate=3e-3))
    another.train(settings(steps=12, learning_rate=1e-12))
    learned, still = (list(read_losses(one.events).values()) for one in (run, another))
    assert learned[0] == still[0]
    assert sum(learned[6:]) < 0.9 * sum(still[6:])


def test_what_is_published_is_the_average(run, settings):
    run.train(settings(ema_decay=0.5))
    checkpoint = run.checkpoints / "step-00000006"
    unet = UNet2DConditionModel.from_pretrained(checkpoint / "unet", use_safetensors=True)
    averaged = dict(load(checkpoint).named_parameters())
    raw = load_file(checkpoint / "training" / "weights.safetensors")
    assert torch.equal(unet.conv_in.weight, averaged["unet.conv_in.weight"])
    assert not torch.equal(raw["unet.conv_in.weight"], averaged["unet.conv_in.weight"])
    assert set(raw) == {name for name in averaged if not name.startswith("vae.")}
    assert not [
        path for path in checkpoint.rglob("*") if path.is_file() and path.suffix not in (".safetensors", ".json", ".md")
    ]


def test_nothing_of_where_it_was_trained_is_published(run, settings):
    run.train(settings(), stop_at=2)
    run.train(settings())
    checkpoint = run.checkpoints / "step-00000006"
    for path in checkpoint.rglob("*.json"):
        assert str(run.root) not in path.read_text(), path


def test_a_finished_run_says_so(run, settings):
    run.train(settings())
    before = read_manifest(run.checkpoints / "step-00000006")
    run.lines.clear()
    assert run.train(settings()) == "done"
    assert len(run.lines) == 1 and run.lines[0].startswith("already done")
    assert read_manifest(run.checkpoints / "step-00000006") == before


def test_a_stop_before_the_first_step_loses_nothing(run, settings):
    assert run.train(settings(), stop_at=0) == "stopped"
    assert CheckpointStore(run.checkpoints).steps() == [0]
    assert run.train(settings(), stop_at=0) == "stopped"
    assert run.train(settings(), stop_at=2) == "stopped"
    assert CheckpointStore(run.checkpoints).steps() == [0, 2]
    assert kinds(run).count("started") == 1
    assert [e["step"] for e in read_events(run.events) if e["kind"] == "stopped"] == [0, 0, 2]


def test_another_run_is_refused_with_its_differences(run, settings):
    run.train(settings(), stop_at=1)
    with pytest.raises(InputError, match=r"train.learning_rate is 0.001 there, 0.002 here.*fresh run folder") as caught:
        run.train(settings(learning_rate=2e-3, seed=5, save_every=7))
    assert "train.seed is 0 there, 5 here" in str(caught.value)
    assert "save_every" not in str(caught.value) and "\n" not in str(caught.value)
    assert run.train(settings(save_every=7, cache=0, micro_batch=4)) == "done"


def test_other_data_are_refused(tmp_path, run, settings):
    run.train(settings(), stop_at=1)
    shutil.copytree(run.data, tmp_path / "fewer")
    (tmp_path / "fewer" / "b.h5").unlink()
    run.data = tmp_path / "fewer"
    with pytest.raises(InputError, match=r"data.samples is 10 there, 7 here"):
        run.train(settings())


def test_every_rank_is_told_what_is_wrong(run, settings, drill):
    run.train(settings(), stop_at=1)
    answers = drill(run, settings(seed=5), 2)
    assert answers[0] == answers[1] and "train.seed is 0 there, 5 here" in answers[0]["error"]


ELEVATED = {"name": "raised", "azimuth": range(0, 360, 60), "elevation": [30.0] * 6, "fov": 30.0, "distance": 1.8660254}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"size": 64, "condition_size": 64}, "of 32 pixels, the model takes 64"),
        ({"rig": ELEVATED}, r"rig mouse \(.*elevation 0 0 0 0 0 0.*the model makes raised \(.*elevation 30 30 30 30"),
        ({"rig": "zero123plus-v1.2"}, r"rig mouse \(azimuth 0 60.*the model makes zero123plus-v1.2 \(azimuth 30 90"),
    ],
    ids=["size", "elevation 30 against 0", "zero123plus"],
)
def test_data_that_do_not_fit_the_model_are_refused(run, settings, changes, match):
    run.model_settings = replace(run.model_settings, **changes)
    with pytest.raises(InputError, match=match):
        run.train(settings())
    assert not run.checkpoints.exists()


def test_a_shard_whose_cameras_are_not_those_of_its_rig_is_refused(run, settings, tmp_path):
    """Pictures taken from elevation 30 in a shard that says ``mouse``: the mistake that costs weeks."""
    run.data = tmp_path / "raised.h5"
    with ShardWriter(run.data, size=SIZE, rig="mouse", codec="raw", with_alpha=False) as writer:
        sample = make_sample(0)
        writer.append(replace(sample, elevation=np.full(6, 30, np.float32)))
        writer.publish()
    with pytest.raises(InputError, match=r"sample-0 .*not taken with mouse .*elevation 30 instead of 0 0"):
        run.train(settings())
    assert not run.checkpoints.exists()


def test_numbers_that_blow_up_end_the_run_and_name_the_samples(run, settings):
    plan = settings(learning_rate=1e30, warmup_steps=0, save_every=1)
    with pytest.raises(Diverged, match=r"not finite at step \d+, samples sample-\d.*untouched") as caught:
        run.train(plan)
    told = [event for event in read_events(run.events) if event["kind"] == "diverged"]
    assert len(told) == 1 and all(name in str(caught.value) for name in told[0]["sample_ids"])
    newest = CheckpointStore(run.checkpoints).newest_good()
    assert newest is not None and newest.name == f"step-{told[0]['step']:08d}"


def test_every_rank_ends_when_one_rank_s_numbers_blow_up(run, settings, drill):
    answers = drill(run, settings(learning_rate=1e30, warmup_steps=0), 2)
    assert [answer["status"] for answer in answers] == [1, 1]
    assert kinds(run).count("diverged") == 2


def test_a_damaged_checkpoint_costs_its_steps_and_changes_no_bit(run, another, settings):
    plan = settings(save_every=2, keep_last=9)
    run.train(plan, stop_at=5)
    (run.checkpoints / "step-00000005" / "training" / "position.json").write_text(json.dumps({"step": 500}))
    assert run.train(plan) == "done"
    assert any("falling back to step-00000004" in line for line in run.lines)
    another.train(plan)
    end = "step-00000006"
    assert read_manifest(run.checkpoints / end) == read_manifest(another.checkpoints / end)
    assert read_losses(run.events) == read_losses(another.events)


def test_a_full_disk_never_costs_a_checkpoint_that_was_there(new_run, small_disk, settings):
    run = new_run("full")
    run.checkpoints = small_disk / "checkpoints"
    with pytest.raises(InputError, match=r"step 6 could not be saved .*No space left.*make room"):
        run.train(settings(save_every=1, keep_last=9))
    kept = CheckpointStore(run.checkpoints).steps()
    assert kept and kept == list(range(len(kept)))
    assert CheckpointStore(run.checkpoints).newest_good() == run.checkpoints / f"step-{kept[-1]:08d}"
    assert kinds(run).count("save failed") == 7 - len(kept)
    assert any("No space left" in line and "going on" in line for line in run.lines)
    assert run.train(settings(save_every=9, keep_last=1)) == "done"
    assert list(read_losses(run.events)) == list(range(6))


def test_training_goes_on_while_a_checkpoint_is_written_and_it_holds_what_was_then(run, another, settings):
    """The save after step 2 is held up until step 3 is done."""
    plan = settings(save_every=2, keep_last=9)
    gone_on, saves = threading.Event(), itertools.count()
    looks = itertools.count()

    def hold_up(name):
        if name == "begun" and next(saves) == 1:  # the first one is of step 0, before training
            assert gone_on.wait(30)

    def look():
        if next(looks) == 3:
            gone_on.set()
        return False

    assert run.train(plan, should_stop=look, on_boundary=hold_up) == "done"
    another.train(plan)
    for step in (2, 4, 6):
        name = f"step-{step:08d}"
        assert read_manifest(run.checkpoints / name) == read_manifest(another.checkpoints / name)
    saving = next(event for event in read_events(run.events) if event["kind"] == "saving" and event["step"] == 2)
    saved = next(event for event in read_events(run.events) if event["kind"] == "checkpoint" and event["step"] == 2)
    assert saving["stalled"] < saved["seconds"]


def test_a_run_stops_by_itself_when_just_enough_time_is_left_to_save(run, settings):
    clock = iter([600.0] * 5 + [0.5] * 99)
    assert run.train(settings(), time_left=lambda: next(clock)) == "stopped"
    steps = CheckpointStore(run.checkpoints).steps()
    assert 0 < steps[-1] < 6
    assert any("job ends in 10m00s" in line for line in run.lines)
    assert run.train(settings(), time_left=lambda: 3600.0) == "done"


@pytest.fixture(scope="module")
def saved_twice(tmp_path_factory, data, model_settings, settings):
    """Checkpoints after steps 0 and 1."""
    run = Run(tmp_path_factory.mktemp("saved"), data, model_settings)
    run.train(settings(), stop_at=1)
    return run


def files_of(run, step):
    checkpoint = run.checkpoints / f"step-{step:08d}"
    return sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file())


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def test_a_flipped_bit_in_any_file_of_the_newest_checkpoint_falls_back_and_changes_no_bit(
    saved_twice, new_run, settings
):
    files = files_of(saved_twice, 1)
    assert len(files) > 10
    [expected] = {read_losses_after(saved_twice, new_run("whole"), settings, None)}
    for number, file in enumerate(files):
        run = new_run(str(number))
        assert read_losses_after(saved_twice, run, settings, file) == expected, file
        assert any("step-00000001 is damaged" in line and "falling back to step-00000000" in line for line in run.lines)


def read_losses_after(saved, run, settings, harmed):
    """Losses of three steps that go on from a copy of ``saved`` in which a bit of the file ``harmed`` is flipped."""
    shutil.copytree(saved.root, run.root)
    if harmed is not None:
        flip_a_bit(run.checkpoints / "step-00000001" / harmed)
    assert run.train(settings(), stop_at=3 if harmed is None else 4) == "stopped"
    return tuple(list(read_losses(run.events).values())[:4])


def test_when_all_checkpoints_are_bad_nothing_is_deleted_and_one_line_says_so(saved_twice, new_run, settings):
    run = new_run("bad")
    shutil.copytree(saved_twice.root, run.root)
    for step in (0, 1):
        flip_a_bit(run.checkpoints / f"step-{step:08d}" / "training" / "weights.safetensors")
    before = sorted(path for path in run.checkpoints.rglob("*"))
    with pytest.raises(InputError, match=r"no checkpoint in .* is whole: step-00000001.*step-00000000") as caught:
        run.train(settings())
    assert "\n" not in str(caught.value) and "nothing was deleted" in str(caught.value)
    assert sorted(path for path in run.checkpoints.rglob("*")) == before


def test_weights_that_are_no_numbers_never_take_the_place_of_good_ones(run, settings):
    plan = settings(steps=1, learning_rate=3e38, warmup_steps=0, schedule="constant")
    with pytest.raises(Diverged, match=r"the weights are not finite at step 1: .*step-00000000 is untouched"):
        run.train(plan)
    assert CheckpointStore(run.checkpoints).steps() == [0]

"""Validation as a run sees it: what is tried when, what is kept, and what ends the run."""

import json
import shutil

import pytest
from PIL import Image

from mvdiff.errors import InputError
from mvdiff.events import read_events
from mvdiff.train.checkpoint import CheckpointStore
from mvdiff.train.position import best_checkpoint, read_history
from mvdiff.train.validation import SCORES
from tests.mvdiff.train.conftest import write_shard

OVERFITTING = {"learning_rate": 1e-2, "schedule": "constant", "warmup_steps": 0, "ema_decay": 0.0}
"""What is learnt of boxes of noise in two steps is better on other boxes than what more steps make of it."""
TRIED = {"every": 2, "samples": 3, "batch": 2, "steps": 2, "sheet": 2}


@pytest.fixture
def tried(run, tmp_path):
    run.held_out = write_shard(tmp_path / "held_out.h5", range(20, 24))
    return run


def found(run):
    return read_history(sorted(run.checkpoints.glob("step-*"))[-1], run.validation)


def validated(run):
    return [event for event in read_events(run.events) if event["kind"] == "validated"]


def test_a_run_is_tried_at_the_start_at_every_interval_and_at_the_end(tried, settings):
    assert tried.train(settings(steps=5, validation=TRIED)) == "done"
    assert [event["step"] for event in validated(tried)] == [0, 2, 4, 5]
    history = found(tried)
    assert [one.step for one in history.entries] == [0, 2, 4, 5]
    assert all(set(one.scores) == set(SCORES) for one in history.entries)
    assert all(event["scores"] == one.scores for event, one in zip(validated(tried), history.entries, strict=True))
    told = [line for line in tried.lines if line.startswith("validation at step")]
    assert len(told) == 4 and all("foreground PSNR" in line and "colour shift" in line for line in told)
    sheets = sorted(tried.validation.glob("*.png"))
    assert [sheet.stem for sheet in sheets] == [f"step-{step:08d}" for step in (0, 2, 4, 5)]
    assert Image.open(sheets[0]).size[0] > 6 * 100


def test_the_best_checkpoint_outlives_the_last_ones(tried, settings):
    plan = settings(steps=16, save_every=1, keep_last=1, validation=TRIED, **OVERFITTING)
    assert tried.train(plan) == "done"
    store = CheckpointStore(tried.checkpoints)
    best = found(tried).best()
    assert best is not None and best.step < 16, "nothing was ruined"
    assert store.steps() == [best.step, 16]
    assert best_checkpoint(store, tried.validation) == store.path(best.step)


def test_patience_ends_the_run_and_the_same_command_finds_it_done(tried, settings):
    plan = settings(steps=40, validation=TRIED | {"patience": 3}, **OVERFITTING)
    assert tried.train(plan) == "done"
    history = found(tried)
    end = history.entries[-1].step
    assert history.stale() == 3 and end == history.best().step + 6 < 40
    assert "no better foreground PSNR in 3 validations" in tried.lines[-1]
    steps = CheckpointStore(tried.checkpoints).steps()
    assert steps[-1] == end
    lines = len(tried.lines)
    assert tried.train(plan) == "done"
    assert tried.lines[lines].startswith("already done") and len(tried.lines) == lines + 1
    assert len(validated(tried)) == len(history.entries)


def test_a_run_that_gets_worse_says_so_in_one_line(tried, settings):
    tried.train(settings(steps=16, validation=TRIED, **OVERFITTING))
    remarks = [remark for event in validated(tried) for remark in event["remarks"]]
    assert any("foreground PSNR" in remark and "step-" in remark for remark in remarks)
    assert all("\n" not in remark and remark in tried.lines for remark in remarks)


def test_a_new_run_forgets_what_a_former_one_of_the_same_name_was_found_to_be(tried, settings):
    tried.validation.mkdir(parents=True)
    (tried.validation / "step-00000004.json").write_text(json.dumps([{"step": 4, "scores": {"foreground_psnr": 99.0}}]))
    tried.train(settings(steps=2, validation=TRIED))
    assert [one.step for one in found(tried).entries] == [0, 2]


def test_other_held_out_samples_are_another_run(tried, settings, tmp_path):
    tried.train(settings(validation=TRIED), stop_at=4)
    tried.held_out = write_shard(tmp_path / "other.h5", range(40, 44))
    with pytest.raises(InputError, match=r"validation.xxh3 is .* there"):
        tried.train(settings(validation=TRIED))


def test_a_run_whose_folder_of_scores_is_lost_is_as_done_as_before(tried, settings):
    plan = settings(steps=40, validation=TRIED | {"patience": 3}, **OVERFITTING)
    tried.train(plan)
    shutil.rmtree(tried.validation)
    steps = CheckpointStore(tried.checkpoints).steps()
    assert tried.train(plan) == "done"
    assert tried.lines[-1].startswith("already done") and CheckpointStore(tried.checkpoints).steps() == steps


def test_scores_that_cannot_be_written_cost_no_training(tried, settings):
    tried.root.mkdir()
    tried.validation.write_bytes(b"a file where the folder should be")
    assert tried.train(settings(steps=2, validation=TRIED)) == "done"
    assert any("could not be written" in line for line in tried.lines)

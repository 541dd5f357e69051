import math

import pytest

from mvdiff.train.checkpoint import CheckpointStore, Keep
from mvdiff.train.history import History
from mvdiff.train.position import Position, best_checkpoint, read_history, write_position, write_scores

SCORES = dict.fromkeys(("psnr", "ssim", "foreground_iou", "colour_shift", "silhouette"), 0.5)


def scores(decibels):
    return SCORES | {"foreground_psnr": decibels}


def history(*decibels):
    found = History()
    for number, value in enumerate(decibels):
        found.record(number * 10, scores(value))
    return found


def test_validation_is_due_at_every_interval_once_and_at_the_end(settings):
    plan = settings(steps=25, validation={"every": 10})
    due = [step for step in range(26) if Position(step, History()).validation_is_due(plan)]
    assert due == [0, 10, 20, 25]
    assert not Position(10, history(1, 2)).validation_is_due(plan)
    assert Position(20, history(1, 2)).validation_is_due(plan)
    assert not Position(10, History()).validation_is_due(settings(steps=25, validation={"every": 0}))


def test_a_run_ends_with_its_last_step_or_by_patience(settings):
    plan = settings(steps=100, validation={"every": 10, "patience": 2})
    assert Position(20, history(1, 3, 2)).ended(plan) is None
    assert Position(30, history(1, 3, 2, 3)).ended(plan) == "no better foreground PSNR in 2 validations since step 10"
    assert Position(100, history(1)).ended(plan) == "all 100 steps are done"
    patient = settings(steps=100, validation={"every": 10, "patience": 0})
    assert Position(30, history(1, 3, 2, 3)).ended(patient) is None


def saved(store, step, history=()):
    """A checkpoint that holds nothing but its place."""

    def write(folder):
        (folder / "training").mkdir()
        write_position(folder, step, list(history))

    return store.save(step, write, Keep(9))


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints")


@pytest.mark.parametrize(
    "damage",
    ["[{", "[]", "[1]", '[{"step": 20, "scores": {}}]', '[{"step": 20, "scores": []}]', '[{"step": 99, "scores": {}}]',
     '{"step": 20}', '[{"step": "x", "scores": {"foreground_psnr": "a"}}]'],
)  # fmt: skip
def test_what_validation_found_is_read_up_to_the_checkpoint_and_damage_costs_one_entry(tmp_path, store, damage):
    for step, value in ((0, 1.0), (10, float("nan")), (20, 2.0), (30, 9.0)):
        write_scores(tmp_path, step, scores(value))
    (tmp_path / "step-00000020.json").write_text(damage)
    (tmp_path / "step-00000010.png").write_text("no scores")
    found = read_history(saved(store, 25), tmp_path)
    assert [one.step for one in found.entries] == [0, 10]
    assert math.isnan(found.entries[1].scores["foreground_psnr"])


def test_a_checkpoint_remembers_what_was_found_when_the_folder_is_lost(tmp_path, store):
    held = history(1, 3, 2)
    found = read_history(saved(store, 25, held.written()), tmp_path / "gone")
    assert found.written() == held.written()


def test_the_best_checkpoint_is_that_of_the_best_validation_of_those_there_are(tmp_path, store):
    assert best_checkpoint(store, tmp_path) is None
    for step in (0, 10, 30):
        saved(store, step)
    assert best_checkpoint(store, tmp_path) is None
    write_scores(tmp_path, 0, scores(7.0))
    assert best_checkpoint(store, tmp_path) is None, "the model that training began with is not what it has made"
    for step, value in ((10, 9.0), (20, 10.0), (30, 8.0), (40, 11.0)):
        write_scores(tmp_path, step, scores(value))
    assert best_checkpoint(store, tmp_path) == store.path(10)

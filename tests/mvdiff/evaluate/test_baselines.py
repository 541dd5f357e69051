from dataclasses import replace

import numpy as np
import pytest

from mvdiff.errors import InputError
from mvdiff.evaluate.baselines import TrainingSplit, blank, copied, shared
from mvdiff.shard import ShardDataset


@pytest.fixture(scope="module")
def train(tmp_path_factory, bodies, write):
    return ShardDataset(write(tmp_path_factory.mktemp("train") / "a.h5", bodies[:5]).parent)


def test_the_mean_is_that_of_each_view(train, bodies):
    expected = np.mean([sample.views.astype(float) for sample in bodies[:5]], 0)
    np.testing.assert_allclose(TrainingSplit(train, 0, 100).mean, expected, atol=0.51)


@pytest.mark.parametrize("reference", [0, 4])
def test_the_nearest_sample_is_the_same_picture_with_a_little_noise(train, bodies, reference):
    split = TrainingSplit(train, reference, 100)
    rng = np.random.default_rng(0)
    for sample in bodies[:5]:
        picture = np.clip(sample.views[reference] + rng.normal(0, 5, sample.views[reference].shape), 0, 255)
        sample_id, views = split.nearest(picture.astype(np.uint8))
        assert sample_id == sample.sample_id
        np.testing.assert_array_equal(views, sample.views)


def test_nearest_is_the_smallest_rmse(train, bodies):
    split = TrainingSplit(train, 0, 100)
    picture = bodies[7].views[0]
    errors = [np.mean((sample.views[0].astype(float) - picture) ** 2) for sample in bodies[:5]]
    assert split.nearest(picture)[0] == bodies[int(np.argmin(errors))].sample_id


def test_a_limit_takes_samples_evenly(train, bodies):
    split = TrainingSplit(train, 0, 3)
    assert len(split) == 3
    assert {split.nearest(sample.views[0])[0] for sample in bodies[:5]} <= {"body-000", "body-002", "body-004"}


def test_blank_is_white_and_copied_is_the_input(bodies):
    assert (blank(8) == 255).all() and blank(8).shape == (6, 8, 8, 3)
    views = copied(bodies[0].views[2])
    assert all((view == bodies[0].views[2]).all() for view in views)


def test_shared_recordings_are_found():
    assert shared(["a", "b", "b"], ["b", "c"]) == ["b"]


def test_a_damaged_training_row_costs_that_row(tmp_path, bodies, write, damage):
    damage(write(tmp_path / "a.h5", bodies[:3]), bodies[1])
    split = TrainingSplit(ShardDataset(tmp_path), 0, 100)
    assert len(split) == 2
    assert list(split.unreadable) == ["body-001"]
    only = write(tmp_path / "one" / "a.h5", [replace(bodies[1], recording="alone")])
    damage(only, bodies[1])
    with pytest.raises(InputError, match="no training sample"):
        TrainingSplit(ShardDataset(only), 0, 100)

import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from mvdiff.errors import InputError
from mvdiff.model.vision import Sight
from mvdiff.rig import angle_between
from mvdiff.shard import ShardDataset
from mvdiff.train.draw import Chance
from mvdiff.train.feed import Fed, Feed, assemble
from mvdiff.train.order import Order

SIGHT = Sight(condition_size=32, glance_size=14)


def chance(**overrides):
    values = {"seed": 0, "timesteps": 1000, "condition_drop": 0.3, "random_reference": True}
    return Chance(**values | {"noise_shapes": {"views": (6, 4, 4, 4), "reference": (4, 4, 4)}} | overrides)


@contextmanager
def feeding(data, settings, rank=0, world_size=1):
    dataset, told = ShardDataset(data), []
    order = Order(dataset.ids, settings.seed)
    with Feed(dataset, order, chance(), settings, SIGHT, rank, world_size, lambda *what: told.append(what)) as feed:
        feed.told = told
        yield feed


def joined(batches):
    """Batches as one: ids, then every tensor."""
    every = (
        [v for v in [*vars(batch).values(), *batch.noise.values()] if isinstance(v, torch.Tensor)] for batch in batches
    )
    tensors = zip(*every, strict=True)
    return [id for batch in batches for id in batch.sample_ids], [torch.cat(parts) for parts in tensors]


@pytest.mark.parametrize(("world_size", "micro_batch", "cache"), [(1, 2, 0), (2, 1, 1), (4, 4, 0)])
def test_ranks_share_the_same_global_batch(data, settings, world_size, micro_batch, cache):
    with feeding(data, settings(micro_batch=4, cache=0)) as feed:
        whole = [joined(feed.take(step)) for step in range(6)]
    parts = []
    for rank in range(world_size):
        with feeding(data, settings(micro_batch=micro_batch, cache=cache), rank, world_size) as feed:
            parts.append([feed.take(step) for step in range(6)])
            assert all(len(batch.sample_ids) <= micro_batch for step in parts[-1] for batch in step)
    for step in range(6):
        ids, tensors = joined([batch for part in parts for batch in part[step]])
        assert ids == whole[step][0]
        assert all(torch.equal(a, b) for a, b in zip(tensors, whole[step][1], strict=True))


def test_a_feed_can_start_at_any_step(data, settings):
    with feeding(data, settings()) as feed:
        fourth = [joined(feed.take(step)) for step in range(5)][4]
    with feeding(data, settings()) as feed:
        ids, tensors = joined(feed.take(4))
    assert ids == fourth[0] and all(torch.equal(a, b) for a, b in zip(tensors, fourth[1], strict=True))


@pytest.mark.parametrize("reference", range(6))
def test_targets_follow_the_reference_around_the_rig(data, reference):
    sample = ShardDataset(data)[0]
    draw = next(d for d in (chance().draw(0, p, "x") for p in range(100)) if d.reference == reference)
    batch = assemble([Fed(sample, draw, *SIGHT(sample.views[reference]))])
    assert np.array_equal(batch.reference[0], sample.views[reference])
    assert np.array_equal(batch.views[0, 0], batch.reference[0])
    assert batch.glance.shape == (1, 14, 14, 3)
    assert batch.cameras[0, :, 0].tolist() == pytest.approx([0, 60, 120, 180, 240, 300], abs=1e-3)
    assert batch.cameras[0, :, 1:].abs().max() < 1e-4
    for k in range(6):
        view = next(v for v in range(6) if np.array_equal(sample.views[v], batch.views[0, k]))
        relative = angle_between(sample.azimuth[view], sample.azimuth[reference] + 60 * k)
        assert relative == pytest.approx(0, abs=1e-4)


def spoil(path, sample):
    """Flip a bit in the stored pixels of ``sample``."""
    content = bytearray(path.read_bytes())
    content[content.index(sample.views[0, 10].tobytes()) + 50] ^= 1
    path.write_bytes(content)


def test_a_bad_sample_costs_one_sample_everywhere_alike(tmp_path, data, settings):
    shutil.copytree(data, tmp_path / "data")
    dataset = ShardDataset(data)
    order = Order(dataset.ids, 0)
    bad = order.place(1).row
    spoil(tmp_path / "data" / dataset.index.locate(bad)[0].name, dataset[bad])

    plan = settings(steps=10)
    with feeding(data, plan) as feed:
        healthy = [joined(feed.take(step))[0] for step in range(10)]
    with feeding(tmp_path / "data", plan) as feed:
        ids = [joined(feed.take(step))[0] for step in range(10)]
        assert [name for name, _ in feed.told] == [dataset.ids[bad]]
    assert healthy[0][1] == dataset.ids[bad]
    assert ids[0][1] == healthy[0][2]
    differing = [(a, b) for one, other in zip(ids, healthy, strict=True) for a, b in zip(one, other, strict=True)]
    assert {b for a, b in differing if a != b} == {dataset.ids[bad]}
    with feeding(tmp_path / "data", plan, rank=0, world_size=2) as feed:
        assert joined(feed.take(0))[0] == ids[0][:2]


def test_no_good_sample_at_all_is_an_error(tmp_path, data, settings):
    shutil.copytree(data, tmp_path / "data")
    dataset = ShardDataset(data)
    for row in range(len(dataset)):
        spoil(tmp_path / "data" / dataset.index.locate(row)[0].name, dataset[row])
    with feeding(tmp_path / "data", settings()) as feed, pytest.raises(InputError, match="not one of the 10"):
        feed.take(0)

import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from mvdiff.errors import InputError
from mvdiff.model.vision import Sight
from mvdiff.rig import angle_between, rig
from mvdiff.shard import ShardDataset
from mvdiff.train.draw import Chance
from mvdiff.train.feed import Fed, Feed, assemble
from mvdiff.train.order import Batches, Place
from mvdiff.train.sources import Sources
from tests.mvdiff.train.conftest import write_shard

SIGHT = Sight(condition_size=32, glance_size=14)
NOISE = {"views": (6, 4, 4, 4), "reference": (4, 4, 4)}
AUGMENT = {"flip": 0.5, "colour": 0.2, "crop": 0.7}


@contextmanager
def feeding(data, settings, rank=0, world_size=1, prior=None, sight=SIGHT, pin=False):
    sources, told = Sources(ShardDataset(data), None, prior and ShardDataset(prior)), []
    batches, chance = Batches(sources, settings), Chance.of(settings, 1000, NOISE)
    place = (rank, world_size, lambda *what: told.append(what), pin)
    with Feed(sources, batches, chance, settings, sight, rig(sources.training.rig), *place) as feed:
        feed.told = told
        yield feed


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """Three samples, one of which the training set has too."""
    return write_shard(tmp_path_factory.mktemp("prior") / "old.h5", range(9, 12))


def joined(batches):
    """Batches as one: ids, then every tensor."""
    every = (
        [v for v in [*vars(batch).values(), *batch.noise.values()] if isinstance(v, torch.Tensor)] for batch in batches
    )
    tensors = zip(*every, strict=True)
    return [id for batch in batches for id in batch.sample_ids], [torch.cat(parts) for parts in tensors]


def alike(one, other):
    return one[0] == other[0] and all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))


@pytest.mark.parametrize(
    ("world_size", "micro_batch", "cache", "readers"), [(1, 2, 0, 3), (2, 1, 1, 1), (4, 4, 0, 2), (1, 4, 1, 4)]
)
@pytest.mark.parametrize("varied", [False, True])
def test_ranks_share_the_same_global_batch(data, prior, settings, world_size, micro_batch, cache, readers, varied):
    plan, old = settings(micro_batch=4, cache=0), None
    if varied:
        plan, old = settings(micro_batch=4, cache=0, augment=AUGMENT, prior_share=0.25), prior
    with feeding(data, plan, prior=old) as feed:
        whole = [joined(feed.take(step)) for step in range(6)]
    parts = []
    for rank in range(world_size):
        own = replace(plan, micro_batch=micro_batch, cache=cache, readers=readers)
        with feeding(data, own, rank, world_size, prior=old) as feed:
            parts.append([feed.take(step) for step in range(6)])
            assert all(len(batch.sample_ids) <= micro_batch for step in parts[-1] for batch in step)
    for step in range(6):
        assert alike(joined([batch for part in parts for batch in part[step]]), whole[step])


def test_a_feed_can_start_at_any_step_and_go_to_any_other(data, settings):
    with feeding(data, settings()) as feed:
        steps = [joined(feed.take(step)) for step in range(6)]
    with feeding(data, settings()) as feed:
        for step in (4, 5, 1, 2, 0):
            assert alike(joined(feed.take(step)), steps[step])


def test_a_batch_has_its_share_of_the_prior_and_says_whose_it_is(data, prior, settings):
    plan = settings(batch=4, prior_share=0.5, steps=9)
    new, old = ShardDataset(data), ShardDataset(prior)
    with feeding(data, plan, prior=prior) as feed:
        taken = [joined(feed.take(step)) for step in range(9)]
    batches = Batches(Sources(new, None, old), plan)
    for step, (ids, _) in enumerate(taken):
        assert ids == batches.ids(step)
        assert set(ids[:2]) <= set(new.ids) and set(ids[2:]) <= set(old.ids)
    for epoch in range(6):
        assert sorted([name for ids, _ in taken for name in ids[2:]][3 * epoch : 3 * epoch + 3]) == sorted(old.ids)


def test_the_condition_is_its_target_and_varied_samples_are_still_seen_by_the_rig(data, settings):
    plan = settings(augment=AUGMENT, steps=30)
    original = {sample.sample_id: sample.views for sample in ShardDataset(data)}
    known = 0
    with feeding(data, plan) as feed:
        for step in range(30):
            for batch in feed.take(step):
                assert torch.equal(batch.views[:, 0], batch.reference)
                assert (batch.cameras[..., 0] - torch.arange(0, 360, 60)).abs().max() < 1e-3
                assert batch.cameras[..., 1:].abs().max() < 1e-4
                for name, views in zip(batch.sample_ids, batch.views.numpy(), strict=True):
                    known += any(np.array_equal(views[0], view) for view in original[name])
    assert known == 0


def test_a_flip_takes_the_mirrored_views_the_other_way_round(data, settings):
    original = {sample.sample_id: sample.views for sample in ShardDataset(data)}
    with feeding(data, settings(augment={"flip": 1.0}, reference_view="first")) as feed:
        for step in range(6):
            for batch in feed.take(step):
                for name, views in zip(batch.sample_ids, batch.views.numpy(), strict=True):
                    assert np.array_equal(views, original[name][[0, 5, 4, 3, 2, 1], :, ::-1])


@pytest.mark.parametrize("cache", [0, 64])
def test_what_is_kept_in_memory_is_not_varied(data, settings, cache):
    plan = settings(augment=AUGMENT, steps=12)
    with feeding(data, plan) as feed:
        whole = [joined(feed.take(step)) for step in range(12)]
    with feeding(data, replace(plan, cache=cache)) as feed:
        assert all(alike(joined(feed.take(step)), whole[step]) for step in range(12))


def test_batches_lie_ready_and_pinned_before_they_are_taken(data, settings, monkeypatch):
    """The copy into page-locked memory is made by readers, and of every tensor."""
    pinned = {}

    def pin(tensor):
        copy = tensor.clone()
        pinned[id(copy)] = (copy, threading.current_thread())
        return copy

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    with feeding(data, settings(), pin=True) as feed:
        for batch in feed.take(0):
            for tensor in [*vars(batch).values(), *batch.noise.values()]:
                assert not isinstance(tensor, torch.Tensor) or id(tensor) in pinned
    assert all(thread is not threading.main_thread() for _, thread in pinned.values())


def test_what_a_reader_raises_is_raised_by_take(data, settings):
    def blind(picture):
        raise RuntimeError("blind")

    with feeding(data, settings(readers=2), sight=blind) as feed:
        for step in range(2):
            with pytest.raises(RuntimeError, match="blind"):
                feed.take(step)


def test_the_end_does_not_wait_for_what_was_to_be_read(data, settings):
    looked = []

    def sight(picture):
        looked.append(threading.current_thread())
        return SIGHT(picture)

    with feeding(data, settings(steps=5000, ahead=4000, readers=2), sight=sight) as feed:
        feed.take(0)
    assert len(looked) < 4 * 4001
    assert not any(thread.is_alive() for thread in looked)


@pytest.mark.parametrize("reference", range(6))
def test_targets_follow_the_reference_around_the_rig(data, settings, reference):
    chance = Chance.of(settings(), 1000, NOISE)
    sample = ShardDataset(data)[0]
    draws = (chance.draw(Place("training", 0, position, 0), "x") for position in range(100))
    draw = next(draw for draw in draws if draw.reference == reference)
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
    bad = Batches(Sources(dataset, None, None), settings()).places(0)[1].row
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


def test_a_bad_sample_of_the_prior_is_replaced_by_one_of_the_prior(tmp_path, data, prior, settings):
    old = ShardDataset(prior)
    copied = shutil.copy(prior, tmp_path / "old.h5")
    spoil(copied, old[0])
    with feeding(data, settings(steps=10, prior_share=0.5), prior=copied) as feed:
        ids = [joined(feed.take(step))[0] for step in range(10)]
        assert [name for name, _ in feed.told] == [old.ids[0]]
    assert {name for one in ids for name in one[2:]} == set(old.ids[1:])
    # The first of the prior is called as the last of the training set, which is still good.
    assert old.ids[0] in {name for one in ids for name in one[:2]}


def test_no_good_sample_at_all_is_an_error(tmp_path, data, settings):
    shutil.copytree(data, tmp_path / "data")
    dataset = ShardDataset(data)
    for row in range(len(dataset)):
        spoil(tmp_path / "data" / dataset.index.locate(row)[0].name, dataset[row])
    with (
        feeding(tmp_path / "data", settings()) as feed,
        pytest.raises(InputError, match="not one of the 10 training samples"),
    ):
        feed.take(0)

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvdiff.train.order import Batches, Order

ids = st.lists(st.text("abcdefgh", min_size=1, max_size=4), min_size=1, max_size=30, unique=True)
seeds = st.integers(0, 2**63)


@given(ids, seeds, st.integers(1, 8), st.integers(1, 4))
def test_batches_cut_a_stream_of_epochs_that_each_hold_every_sample_once(names, seed, batch, epochs):
    order = Order(names, seed)
    steps = -(-len(names) * epochs // batch)
    stream = [place for step in range(steps) for place in order.batch(step, batch)]
    for epoch in range(epochs):
        part = [place for place in stream if place.epoch == epoch]
        assert [place.position for place in part] == list(range(len(names)))
        assert sorted(place.row for place in part) == list(range(len(names)))


@given(ids, seeds, st.data())
def test_it_knows_only_the_seed_and_the_set_of_samples(names, seed, data):
    shuffled = data.draw(st.permutations(names))
    there, here = Order(names, seed), Order(shuffled, seed)
    for index in data.draw(st.lists(st.integers(0, 5 * len(names)), max_size=10)):
        assert names[there.place(index).row] == shuffled[here.place(index).row]


def test_epochs_and_seeds_differ():
    names = [str(i) for i in range(20)]
    orders = {
        tuple(place.row for place in Order(names, seed).batch(epoch, 20)) for seed in range(5) for epoch in range(5)
    }
    assert len(orders) == 25


@given(ids, seeds, st.integers(0, 100))
def test_every_sample_of_the_epoch_can_stand_in(names, seed, index):
    order = Order(names, seed)
    place = order.place(index)
    stand_ins = [order.following(place, count) for count in range(len(names))]
    assert stand_ins[0] == place
    assert sorted(one.row for one in stand_ins) == list(range(len(names)))
    assert {(one.source, one.epoch, one.position) for one in stand_ins} == {("training", place.epoch, place.position)}


def test_the_order_is_the_same_for_ever():
    names = [f"mouse-{i}" for i in range(8)]
    assert [place.row for place in Order(names, seed=7).batch(0, 8)] == [5, 4, 6, 3, 1, 7, 2, 0]


def sources(training, prior):
    return SimpleNamespace(training=SimpleNamespace(ids=training), prior=prior and SimpleNamespace(ids=prior))


@given(ids, ids)
def test_a_batch_is_so_many_places_of_each_data_set_and_each_has_epochs_of_its_own(settings, training, prior):
    plan = settings(batch=8, prior_share=0.25)
    batches = Batches(sources(training, prior), plan)
    steps = [batches.places(step) for step in range(2 * len(prior))]
    own = [place for places in steps for place in places[:6]]
    assert own == [Order(training, plan.seed).place(index) for index in range(len(own))]
    old = [place for places in steps for place in places[6:]]
    assert {place.source for place in own} == {"training"} and {place.source for place in old} == {"prior"}
    for epoch in range(4):
        assert sorted(place.row for place in old if place.epoch == epoch) == list(range(len(prior)))
    expected = [training[place.row] for place in steps[0][:6]] + [prior[place.row] for place in steps[0][6:]]
    assert batches.ids(0) == expected


def test_the_same_samples_are_shuffled_otherwise_as_a_prior(settings):
    names = [str(i) for i in range(20)]
    batches = Batches(sources(names, names), settings(batch=40, prior_share=0.5))
    places = batches.places(0)
    assert [place.row for place in places[:20]] != [place.row for place in places[20:]]


def test_without_a_prior_a_batch_is_of_the_training_set_alone(settings):
    names = [str(i) for i in range(20)]
    plan = settings(batch=8)
    assert Batches(sources(names, None), plan).places(3) == Order(names, plan.seed).batch(3, 8)
    with pytest.raises(AssertionError):
        Batches(sources(names, names), plan)

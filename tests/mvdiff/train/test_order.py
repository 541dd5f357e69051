from hypothesis import given
from hypothesis import strategies as st

from mvdiff.train.order import Order

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
    assert {(one.epoch, one.position) for one in stand_ins} == {(place.epoch, place.position)}


def test_the_order_is_the_same_for_ever():
    names = [f"mouse-{i}" for i in range(8)]
    assert [place.row for place in Order(names, seed=7).batch(0, 8)] == [5, 4, 6, 3, 1, 7, 2, 0]

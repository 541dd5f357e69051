"""Recordings are held out whole, and always the same ones."""

from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mvdiff.errors import InputError
from mvdiff.shard.split import held_out_recordings

RECORDINGS = st.lists(st.integers(0, 9).map("r{}".format), min_size=2, max_size=60)


@given(RECORDINGS, st.integers(0, 60), st.integers(0, 5), st.randoms())
def test_whole_recordings_up_to_what_was_asked(recordings, held_out, seed, shuffle):
    assume(held_out < len(recordings) and len(set(recordings)) > 1)
    chosen = held_out_recordings(recordings, held_out, seed)
    sizes = Counter(recordings)
    count = sum(sizes[name] for name in chosen)
    assert 0 <= count < len(recordings)
    assert (count > 0) == (held_out > 0)
    assert count <= held_out or chosen == {min(chosen, key=sizes.get)}
    shuffle.shuffle(recordings)
    assert held_out_recordings(recordings, held_out, seed) == chosen


@given(st.integers(2, 80), st.data())
def test_recordings_of_one_sample_reach_the_number_exactly(samples, data):
    held_out = data.draw(st.integers(0, samples - 1))
    assert len(held_out_recordings([f"s{i}" for i in range(samples)], held_out, 0)) == held_out


def test_a_share_is_of_samples_and_seeds_differ():
    names = [f"s{i}" for i in range(100)]
    chosen = [held_out_recordings(names, 0.2, seed) for seed in range(4)]
    assert {len(names) for names in chosen} == {20}
    assert len(set(chosen)) == 4


def test_more_samples_hardly_move_the_split():
    before = held_out_recordings([f"s{i}" for i in range(100)], 20, 0)
    after = held_out_recordings([f"s{i}" for i in range(101)], 20, 0)
    assert len(before & after) >= 19


@pytest.mark.parametrize("held_out", [-1, -0.1, 10, 11, 1.5])
def test_a_number_that_leaves_nothing_is_refused(held_out):
    with pytest.raises(InputError):
        held_out_recordings([f"s{i}" for i in range(10)], held_out, 0)


def test_a_single_recording_cannot_be_split():
    with pytest.raises(InputError, match="one recording"):
        held_out_recordings(["a"] * 10, 3, 0)
    assert held_out_recordings(["a"] * 10, 0, 0) == frozenset()

"""A batch whose sampler fails: which places come out, and that their neighbours' bits are those of the calm batch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvdiff.generate.trial import DeviceLost, Trial

SIZE = 4


def images(count):
    return [np.full((SIZE, SIZE, 3), k, np.uint8) for k in range(count)]


class Sampler:
    """Every value depends on the image, the seed, its place and the length of the call, as on a real device."""

    def __init__(self, bad=frozenset(), most=10**6, error=FloatingPointError):
        self.bad, self.most, self.error, self.lengths = bad, most, error, []

    def __call__(self, pictures, seeds):
        self.lengths.append(len(seeds))
        if len(seeds) > self.most:
            raise MemoryError("too many")
        if self.bad & set(seeds):
            raise self.error("bad content")
        rows = [(int(image[0, 0, 0]) * 31 + seed * 7 + place) % 251 for place, (image, seed) in
                enumerate(zip(pictures, seeds, strict=True))]  # fmt: skip
        views = np.zeros((len(seeds), 6, SIZE, SIZE, 3), np.uint8)
        views[:] = (np.array(rows) + len(seeds))[:, None, None, None, None]
        return views


batches = st.integers(1, 9).flatmap(
    lambda count: st.tuples(
        st.just(count),
        st.sets(st.integers(0, count - 1), min_size=1),
        st.sets(st.integers(0, count - 1)),
    )
)


@given(batches)
def test_all_that_can_come_out_does_with_the_bits_of_the_calm_batch(batch):
    count, wanted, bad = batch
    seeds = [100 + k for k in range(count)]
    calm = Sampler()(np.stack(images(count)), seeds)
    given_ = [image if k in wanted else None for k, image in enumerate(images(count))]
    sampler = Sampler({seeds[k] for k in bad})
    made, failed = Trial(sampler, SIZE, lambda length, error: None)(given_, seeds, sorted(wanted))
    assert set(made) == wanted - bad
    assert set(failed) == wanted & bad
    assert all(np.array_equal(views, calm[k]) for k, views in made.items())
    assert set(sampler.lengths) == {count}, "a neighbour that fails changes nobody's batch"
    assert all(isinstance(error, FloatingPointError) for error in failed.values())


@given(batches, st.integers(1, 9))
def test_out_of_memory_costs_no_sample(batch, most):
    count, wanted, bad = batch
    seeds = [100 + k for k in range(count)]
    halved = []
    sampler = Sampler({seeds[k] for k in bad}, most)
    trial = Trial(sampler, SIZE, lambda length, error: halved.append(length))
    for _ in range(2):
        made, failed = trial(images(count), seeds, sorted(wanted))
        assert set(made) == wanted - bad and set(failed) == wanted & bad
    assert len([length for length in sampler.lengths if length > most]) == len(halved), "it is learnt once"


def test_one_sample_that_needs_too_much_memory_fails_alone():
    made, failed = Trial(Sampler(most=0), SIZE, lambda length, error: None)(images(2), [1, 2], [0, 1])
    assert made == {} and set(failed) == {0, 1}


@pytest.mark.parametrize("told", ["CUDA error: device-side assert triggered", "CUDA error: unspecified launch failure"])
def test_a_lost_device_blames_no_sample(told):
    def sampler(pictures, seeds):
        raise RuntimeError(told)

    with pytest.raises(DeviceLost, match="CUDA error"):
        Trial(sampler, SIZE, lambda length, error: None)(images(4), [1, 2, 3, 4], [0, 1, 2, 3])


def test_names_of_torch_are_known():
    class OutOfMemoryError(RuntimeError):
        pass

    def sampler(pictures, seeds):
        if len(seeds) > 2:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return Sampler()(pictures, seeds)

    halved = []
    made, failed = Trial(sampler, SIZE, lambda length, error: halved.append(length))(images(8), range(8), range(8))
    assert len(made) == 8 and not failed and halved == [4, 2]

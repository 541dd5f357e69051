"""A sample is checked when it is made."""

import dataclasses
import pickle

import numpy as np
import pytest

from mvdiff.errors import InputError
from mvdiff.shard import CorruptRow


@pytest.mark.parametrize("name", ["", "a/b", "..", "a..b", "a b", "a\n", "ä", "x" * 129, "\0", "../../etc/passwd"])
@pytest.mark.parametrize("field", ["sample_id", "recording"])
def test_names_never_become_paths(sample, field, name):
    with pytest.raises(InputError, match="not usable"):
        dataclasses.replace(sample(0), **{field: name})


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "x" * 128, "."])
def test_ordinary_names_are_taken(sample, name):
    assert dataclasses.replace(sample(0), sample_id=name).sample_id == name


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("views", lambda v: v[:5]),
        ("views", lambda v: v.astype(np.float32)),
        ("views", lambda v: v[:, :-1]),
        ("alpha", lambda a: a[:, :, :-1]),
        ("w2c", lambda m: m.astype(np.float64)),
        ("w2c", lambda m: m * np.nan),
        ("intrinsics", lambda m: m[:, :2]),
        ("azimuth", lambda a: a[None]),
        ("elevation", lambda a: np.full_like(a, np.inf)),
    ],
)
def test_a_field_of_another_type_or_shape_is_named(sample, field, change):
    good = sample(0)
    with pytest.raises(InputError, match=f"mouse-0000: {field}"):
        dataclasses.replace(good, **{field: change(getattr(good, field))})


def test_the_checksum_covers_every_field(sample):
    good = sample(0)
    others = [
        dataclasses.replace(good, sample_id="other"),
        dataclasses.replace(good, recording="other"),
        dataclasses.replace(good, alpha=None),
    ]
    for field in ("views", "alpha", "w2c", "intrinsics", "azimuth", "elevation"):
        changed = getattr(good, field).copy()
        changed.flat[-1] += 1
        others.append(dataclasses.replace(good, **{field: changed}))
    assert len({good.checksum(), *(other.checksum() for other in others)}) == 1 + len(others)


def test_a_corrupt_row_crosses_processes():
    error = pickle.loads(pickle.dumps(CorruptRow("a.h5", 3, "mouse", "it is bad")))
    assert (error.path, error.row, error.sample_id, error.why) == ("a.h5", 3, "mouse", "it is bad")
    assert "a.h5 row 3 (mouse)" in str(error)

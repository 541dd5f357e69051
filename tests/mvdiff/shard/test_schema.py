"""A sample is checked when it is made."""

import dataclasses
import pickle

import h5py
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mvdiff.errors import InputError
from mvdiff.shard import CorruptRow, ShardIndex, ShardReader, ShardWriter, verify_shard
from mvdiff.shard.schema import row_checksum


@pytest.mark.parametrize("name", ["", "a\0", "\0", "\udcff", "x" * 1025, "쥐" * 342])
@pytest.mark.parametrize("field", ["sample_id", "recording"])
def test_names_are_text_that_a_shard_can_hold(sample, field, name):
    with pytest.raises(InputError, match="not usable"):
        dataclasses.replace(sample(0), **{field: name})


ANY_TEXT = [
    "a", "A.b_c-9", "x" * 128, "x" * 129, "x" * 1024, "쥐" * 341, ".", "..", "../../etc/passwd", "/", " ", "a\nb", "\\",
]  # fmt: skip


@pytest.mark.parametrize("name", ANY_TEXT)
@pytest.mark.parametrize("field", ["sample_id", "recording"])
def test_any_other_text_is_a_name(sample, tmp_path, field, name):
    row = dataclasses.replace(sample(0), **{field: name})
    with ShardWriter(tmp_path / "a.h5", size=row.size, rig="mouse", codec="lz4", with_alpha=True) as writer:
        writer.append(row)
        writer.append(sample(1))
        path = writer.publish()
    assert verify_shard(path) == []
    assert getattr(ShardReader(path).sample(0), field) == name
    assert list(ShardIndex.scan(path).ids) == [row.sample_id, "mouse-0001"]


def test_a_shard_of_short_names_spends_nothing_on_long_ones(shard, tmp_path):
    with h5py.File(shard(tmp_path / "a.h5")) as file:
        assert file["sample_id"].dtype.itemsize == 128


@given(*[st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=150)] * 4)
@example("a" * 128, "b" * 200, "a" * 128 + "b" * 72, "b" * 128)
@example("a" * 129, "b", "a" * 128, "ab")
@settings(max_examples=200, deadline=None)
def test_a_row_checksum_tells_names_apart(id_a, recording_a, id_b, recording_b):
    a, b = row_checksum(id_a, recording_a, ()), row_checksum(id_b, recording_b, ())
    assert (a == b) == ((id_a, recording_a) == (id_b, recording_b))


def test_the_checksum_of_a_row_is_the_one_that_published_shards_hold(sample):
    assert sample(0).checksum() == 0x56B6059ADF1E3A3A


def test_an_error_about_a_hostile_name_is_one_line(sample):
    good = dataclasses.replace(sample(0), sample_id="a\nb\x1b[2J\u2028")
    with pytest.raises(InputError) as caught:
        dataclasses.replace(good, views=good.views[:5])
    assert "a\\nb\\x1b[2J\\u2028" in str(caught.value) and str(caught.value).isprintable()
    assert str(CorruptRow("a.h5", 3, "a\nb", "it is bad")).isprintable()


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

"""Shards are published whole or not at all, hold what was given, and survive their writer's death."""

import os
import signal
from pathlib import Path

import h5py
import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mvdiff.errors import InputError
from mvdiff.rig import VIEWS
from mvdiff.shard import CODECS, Sample, ShardReader, verify_shard

NAMES = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_-]{0,127}", fullmatch=True)
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def sample_lists(draw):
    size, with_alpha = draw(st.integers(1, 9)), draw(st.booleans())
    pixels = arrays.arrays(np.uint8, (VIEWS, size, size, 3))
    rows = [
        Sample(
            name,
            draw(NAMES),
            draw(pixels),
            draw(arrays.arrays(np.uint8, (VIEWS, size, size))) if with_alpha else None,
            draw(arrays.arrays(np.float32, (VIEWS, 4, 4), elements=NUMBERS)),
            draw(arrays.arrays(np.float32, (VIEWS, 3, 3), elements=NUMBERS)),
            draw(arrays.arrays(np.float32, VIEWS, elements=NUMBERS)),
            draw(arrays.arrays(np.float32, VIEWS, elements=NUMBERS)),
        )
        for name in draw(st.lists(NAMES, max_size=4, unique=True))
    ]
    return size, with_alpha, rows


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=sample_lists(), codec=st.sampled_from(CODECS), cut=st.integers(0, 4))
def test_rows_come_back_as_they_went(tmp_path_factory, writer, same, case, codec, cut):
    size, with_alpha, rows = case
    path = tmp_path_factory.mktemp("shards") / "a.h5"
    with writer(path, codec, with_alpha, size) as first:
        for row in rows[:cut]:
            first.append(row)
    with writer(path, codec, with_alpha, size) as second:
        assert second.ids() == [row.sample_id for row in rows[:cut]]
        for row in rows[second.rows :]:
            second.append(row)
        second.publish()
    with ShardReader(path) as reader:
        assert len(reader) == len(rows)
        assert all(same(reader.sample(i), row) for i, row in enumerate(rows))
        assert reader.checksums() == [row.checksum() for row in rows]
    assert verify_shard(path) == []


@pytest.mark.parametrize("codec", CODECS)
def test_other_programs_find_the_schema(shard, sample, codec, tmp_path):
    path = shard(tmp_path / "a.h5", codec=codec)
    import hdf5plugin  # noqa: F401

    with h5py.File(path) as file:
        assert (file.attrs["schema"], file.attrs["version"], file.attrs["rig"]) == ("mvdiff-shard", 1, "mouse")
        assert file["views"].chunks == (1, 6, 24, 24, 3)
        assert file["views"].fletcher32
        assert np.array_equal(file["views"][1], sample(1).views)
        assert np.array_equal(file["alpha"][2], sample(2).alpha)
        assert file["sample_id"].asstr()[:].tolist() == ["mouse-0000", "mouse-0001", "mouse-0002"]
        assert h5py.check_string_dtype(file["sample_id"].dtype).encoding == "utf-8"
        assert file["w2c"].shape == (3, 6, 4, 4)


def test_attributes_are_kept_and_reserved_ones_refused(writer, shard, tmp_path):
    path = shard(tmp_path / "a.h5", steps=30, guidance=4.5, checkpoint="ü")
    found = ShardReader(path).attributes
    assert (found["steps"], found["guidance"], found["checkpoint"], found["size"]) == (30, 4.5, "ü", 24)
    with pytest.raises(InputError, match="'schema' is reserved"):
        writer(tmp_path / "b.h5", schema="other")


def test_rows_that_do_not_fit_are_refused(writer, sample, tmp_path):
    with writer(tmp_path / "a.h5") as open_one:
        open_one.append(sample(0))
        with pytest.raises(InputError, match="is there already"):
            open_one.append(sample(0))
        with pytest.raises(InputError, match="32 pixels instead of 24"):
            open_one.append(sample(1, size=32))
        with pytest.raises(InputError, match="lacks alpha"):
            open_one.append(sample(1, with_alpha=False))
        assert open_one.rows == 1


def test_a_published_shard_is_never_written_again(writer, shard, tmp_path):
    path = shard(tmp_path / "a.h5")
    before = path.read_bytes()
    with pytest.raises(InputError, match="published already"):
        writer(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


def test_other_settings_do_not_go_on_with_a_journal(writer, sample, tmp_path):
    with writer(tmp_path / "a.h5", codec="raw") as first:
        first.append(sample(0))
    with pytest.raises(InputError, match="codec 'raw', not 'lz4'"):
        writer(tmp_path / "a.h5", codec="lz4")


def test_two_writers_never_share_a_shard(writer, tmp_path):
    with writer(tmp_path / "a.h5"), pytest.raises(InputError, match="being written by another process"):
        writer(tmp_path / "a.h5")
    writer(tmp_path / "a.h5").close()


def test_a_killed_writer_leaves_its_rows_and_no_lock(writer, sample, tmp_path):
    ready, done = os.pipe()
    child = os.fork()
    if not child:
        alive = writer(tmp_path / "a.h5")
        alive.append(sample(0))
        os.write(done, b"x")
        signal.pause()
    os.read(ready, 1)
    with pytest.raises(InputError, match="another process"):
        writer(tmp_path / "a.h5")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with writer(tmp_path / "a.h5") as heir:
        assert heir.ids() == ["mouse-0000"]


def test_a_torn_or_flipped_row_at_the_end_is_cut_off(writer, sample, tmp_path):
    with writer(tmp_path / "a.h5") as first:
        for i in range(3):
            first.append(sample(i))
    part = tmp_path / ".a.h5.part"
    whole = part.read_bytes()
    for content in (whole[:-1], whole + b"\1", whole[:-5] + b"\0" + whole[-4:], whole + whole[-100:]):
        part.write_bytes(content)
        with writer(tmp_path / "a.h5") as second:
            assert second.rows >= 2
            for i in range(second.rows, 3):
                second.append(sample(i))
        assert part.read_bytes() == whole


BOUNDARIES = ("pwrite", "ftruncate", "fsync", "replace", "unlink")


def _write_three(path: Path, open_writer, make_sample, acknowledged: Path) -> None:
    with open_writer(path) as writing:
        for i in range(writing.rows, 3):
            writing.append(make_sample(i))
            acknowledged.write_text(str(i + 1))
        writing.publish()


def _killed_at(boundary: int, torn: bool, work) -> bool:
    """Run ``work`` in a child that is killed at its ``boundary``-th change to the disk; False if it lived through."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)
    count = 0

    def counted(name, real):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count > boundary:
                if torn and name == "pwrite":
                    real(args[0], bytes(memoryview(args[1])[: len(args[1]) // 2]), args[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in BOUNDARIES:
        setattr(os, name, counted(name, getattr(os, name)))
    try:
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


@pytest.mark.parametrize("torn", [False, True])
def test_killed_at_any_write_it_goes_on_to_the_same_bytes(writer, sample, shard, tmp_path, torn):
    reference = shard(tmp_path / "reference.h5").read_bytes()
    boundary = 0
    alive = False
    while not alive:
        folder = tmp_path / f"{boundary}"
        folder.mkdir()
        path, acknowledged = folder / "a.h5", folder / "acknowledged"
        alive = not _killed_at(boundary, torn, lambda p=path, a=acknowledged: _write_three(p, writer, sample, a))
        if path.exists():
            assert path.read_bytes() == reference
        else:
            with writer(path) as heir:
                assert heir.rows >= int(acknowledged.read_text()) if acknowledged.exists() else True
                for i in range(heir.rows, 3):
                    heir.append(sample(i))
                heir.publish()
            assert path.read_bytes() == reference
            assert {p.name for p in folder.iterdir()} <= {"a.h5", "acknowledged"}
        boundary += 1
    assert boundary > 20


def test_rows_behind_a_damaged_header_are_not_taken_for_new_ones(tmp_path, sample, writer):
    path = tmp_path / "a.h5"
    with writer(path) as first:
        first.append(sample(0))
    journal = path.with_name(f".{path.name}.part")
    content = bytearray(journal.read_bytes())
    content[16] ^= 1
    journal.write_bytes(content)
    with writer(path) as second:
        assert second.rows == 0
    with writer(path) as third:
        assert third.rows == 0

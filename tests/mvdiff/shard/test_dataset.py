"""Many shards read as one data set, in any process."""

import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mvdiff.errors import InputError
from mvdiff.shard import CODECS, CorruptRow, ShardDataset, ShardIndex, ShardReader


@pytest.fixture
def folder(shard, tmp_path):
    shard(tmp_path / "set" / "b.h5", range(3, 5))
    shard(tmp_path / "set" / "a.h5", range(3))
    shard(tmp_path / "set" / "deeper" / "c.h5", range(5, 9))
    (tmp_path / "set" / ".d.h5.part").write_bytes(b"being written")
    return tmp_path / "set"


def test_samples_are_found_by_number(folder, sample, same):
    dataset = ShardDataset(folder)
    assert dataset.ids == [f"mouse-{i:04d}" for i in range(9)]
    assert dataset.recordings == [f"cage-{i // 2}" for i in range(9)]
    assert (len(dataset), dataset.rig, dataset.size) == (9, "mouse", 24)
    assert all(same(dataset[i], sample(i)) for i in (8, 0, 4, 4, 3))
    assert [s.sample_id for s in dataset] == dataset.ids


def test_the_index_locates_and_sums_up(folder, sample):
    index = ShardIndex.scan(folder)
    assert index.locate(4) == (folder / "b.h5", 1)
    assert [index.checksum(i) for i in range(9)] == [sample(i).checksum() for i in range(9)]
    assert index.with_alpha


def test_a_single_shard_is_a_data_set(folder):
    assert len(ShardDataset(folder / "b.h5")) == 2


def test_the_same_id_in_two_shards_names_both(folder, shard):
    shard(folder / "e.h5", [11, 4])
    with pytest.raises(InputError, match=r"mouse-0004 is in .*b\.h5 and in .*e\.h5"):
        ShardIndex.scan(folder)


def test_shards_that_do_not_belong_together_are_refused(folder, shard):
    shard(folder / "e.h5", [20], size=32)
    with pytest.raises(InputError, match=r"e\.h5 has rig mouse at 32 pixels"):
        ShardIndex.scan(folder)


def test_strange_files_are_refused(folder):
    (folder / "x.h5").write_bytes(b"strange" * 100)
    with pytest.raises(InputError, match=r"x\.h5 is no shard"):
        ShardIndex.scan(folder)


def test_nothing_is_wrong_input(tmp_path, shard):
    with pytest.raises(InputError, match="does not exist"):
        ShardDataset(tmp_path / "missing")
    with pytest.raises(InputError, match="holds no shards"):
        ShardDataset(tmp_path)
    shard(tmp_path / "a.h5", [])
    with pytest.raises(InputError, match="holds no samples"):
        ShardDataset(tmp_path)


def test_a_pickle_carries_no_handle_and_reads_the_same(folder, same):
    dataset = ShardDataset(folder)
    first = dataset[7]
    content = pickle.dumps(dataset)
    assert same(pickle.loads(content)[7], first)
    assert same(dataset[7], first)


def _checksums(dataset, numbers):
    return [dataset[i].checksum() for i in numbers]


def test_forks_read_right_what_their_parent_had_opened(folder, sample):
    dataset = ShardDataset(folder)
    expected = [dataset[i].checksum() for i in range(9)]
    assert expected == [sample(i).checksum() for i in range(9)]
    context = multiprocessing.get_context("fork")
    with context.Pool(3) as pool:
        found = pool.starmap(_checksums, [(dataset, range(9))] * 6)
    assert found == [expected] * 6
    child = os.fork()
    if not child:
        good = all(dataset[i].checksum() == expected[i] for i in range(9))
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert _checksums(dataset, range(9)) == expected


@pytest.mark.parametrize("codec", CODECS)
def test_threads_share_a_reader(shard, sample, codec, tmp_path):
    reader = ShardReader(shard(tmp_path / "a.h5", range(6), codec=codec))
    len(reader)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: reader.sample(i % 6).checksum(), range(60)))
    assert found == [sample(i % 6).checksum() for i in range(60)]


def test_rows_outside_are_index_errors(shard, tmp_path):
    reader = ShardReader(shard(tmp_path / "a.h5"))
    for row in (-1, 3):
        with pytest.raises(IndexError):
            reader.sample(row)


def test_one_bad_row_costs_one_row(shard, sample, same, tmp_path):
    path = shard(tmp_path / "a.h5", range(4), codec="raw")
    content = path.read_bytes()
    at = content.index(sample(2).views.tobytes())
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    dataset = ShardDataset(tmp_path)
    with pytest.raises(CorruptRow, match=r"row 2 \(mouse-0002\)"):
        dataset[2]
    assert all(same(dataset[i], sample(i)) for i in (0, 1, 3))


def test_more_shards_than_are_kept_open(shard, sample, same, tmp_path, monkeypatch):
    monkeypatch.setattr("mvdiff.shard.dataset._OPEN_SHARDS", 2)
    for i in range(5):
        shard(tmp_path / f"{i}.h5", [i])
    dataset = ShardDataset(tmp_path)
    before = _open_files()
    assert all(same(dataset[i], sample(i)) for i in [0, 1, 2, 3, 4, 0, 4, 2])
    assert _open_files() <= before + 2


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())

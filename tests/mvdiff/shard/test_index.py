"""Which shards an index holds: those named, and those that can be read."""

import os

import numpy as np
import pytest

from mvdiff.errors import InputError
from mvdiff.shard import ShardIndex, find_shards


@pytest.fixture
def folder(shard, tmp_path):
    shard(tmp_path / "set" / "a.h5", range(3))
    shard(tmp_path / "set" / "b.h5", range(3, 5))
    shard(tmp_path / "set" / "deeper" / "a.h5", range(5, 9))
    return tmp_path / "set"


def cut(path):
    path.write_bytes(path.read_bytes()[:1000])


def flip_header(path):
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def vanish(path):
    path.unlink()
    path.symlink_to("nowhere.h5")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["b.h5"], ["b.h5"]),
        (["b"], ["b.h5"]),
        (["a"], ["a.h5", "deeper/a.h5"]),
        (["deeper/a"], ["deeper/a.h5"]),
        (["deeper/*"], ["deeper/a.h5"]),
        (["[ab].h5", "b"], ["a.h5", "b.h5", "deeper/a.h5"]),
        (["*"], ["a.h5", "b.h5", "deeper/a.h5"]),
    ],
)
def test_shards_are_chosen_by_name_and_pattern(folder, words, found):
    assert find_shards(folder, words) == [folder / name for name in found]


@pytest.mark.parametrize("words", [["c"], ["b", "c*"], [""]])
def test_a_word_that_names_no_shard_is_refused(folder, words):
    with pytest.raises(InputError, match=r"no shard in .* is called"):
        find_shards(folder, words)


@pytest.mark.parametrize("harm", [cut, flip_header, empty, vanish])
def test_an_unreadable_shard_costs_itself_and_is_back_when_mended(folder, harm):
    path = folder / "b.h5"
    good = path.read_bytes()
    harm(path)
    with pytest.raises(InputError, match=r"b\.h5"):
        ShardIndex.scan(folder)
    index = ShardIndex.scan_readable(folder)
    assert index.ids == [f"mouse-{i:04d}" for i in (0, 1, 2, 5, 6, 7, 8)]
    assert list(index.unreadable) == [path]
    assert str(path) in index.unreadable[path]
    assert index.locate(3) == (folder / "deeper" / "a.h5", 0)
    path.unlink()
    path.write_bytes(good)
    mended = ShardIndex.scan_readable(folder)
    assert (mended.ids, mended.unreadable) == ([f"mouse-{i:04d}" for i in range(9)], {})


def test_nothing_readable_is_refused(folder):
    for path in folder.rglob("*.h5"):
        cut(path)
    with pytest.raises(InputError, match=r"a\.h5 is cut off.*nor can 2 other shards be read"):
        ShardIndex.scan_readable(folder)


def test_shards_that_do_not_belong_together_stay_refused(folder, shard):
    shard(folder / "e.h5", [20], size=32)
    with pytest.raises(InputError, match=r"e\.h5 has rig mouse at 32 pixels"):
        ShardIndex.scan_readable(folder)


def test_the_same_id_in_two_shards_stays_refused(folder, shard):
    shard(folder / "e.h5", [11, 4])
    with pytest.raises(InputError, match=r"mouse-0004 is in .*b\.h5 and in .*e\.h5"):
        ShardIndex.scan_readable(folder)


def test_thousands_of_shards_are_indexed_in_their_order_by_several_processes(folder, shard, tmp_path, capfd):
    nothing = shard(tmp_path / "nothing.h5", [])
    for k in range(1200):
        os.link(nothing, folder / "deeper" / f"{k:05d}.h5")
    cut(folder / "a.h5")
    index = ShardIndex.scan_readable(folder)
    assert index.ids == [f"mouse-{i:04d}" for i in range(3, 9)]
    assert len(index.shards) == 1202
    assert [index.locate(i)[0].name for i in range(6)] == ["b.h5"] * 2 + ["a.h5"] * 4
    np.testing.assert_array_equal(index.row, [0, 1, 0, 1, 2, 3])
    assert list(index.unreadable) == [folder / "a.h5"]

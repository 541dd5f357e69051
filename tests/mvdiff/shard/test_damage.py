"""Damage is told, wherever it lies: never a wrong picture, never a crash."""

import random

import h5py
import numpy as np
import pytest

from mvdiff.errors import InputError
from mvdiff.shard import CODECS, CorruptRow, DamagedShard, ShardReader, verify, verify_shard
from mvdiff.shard.seal import USER_BLOCK, apply_seal


def header_end(content: bytes) -> int:
    return int(content.split(b"head=")[1].split()[0])


def flipped(content: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 1 << bit
    return bytes(changed)


@pytest.mark.parametrize("codec", CODECS)
def test_a_flipped_bit_is_told_by_reader_and_verify(shard, sample, same, codec, tmp_path):
    path = shard(tmp_path / "a.h5", codec=codec)
    content = path.read_bytes()
    head = header_end(content)
    rng = random.Random(codec)
    places = [rng.randrange(USER_BLOCK) for _ in range(10)]
    places += [rng.randrange(USER_BLOCK, head) for _ in range(30)]
    places += [rng.randrange(head, len(content)) for _ in range(60)]
    for at in places:
        path.write_bytes(flipped(content, at, rng.randrange(8)))
        wrong = 0
        try:
            with ShardReader(path) as reader:
                for row in range(3):
                    try:
                        assert same(reader.sample(row), sample(row)), at
                    except CorruptRow as error:
                        assert (error.row, error.sample_id) == (row, f"mouse-000{row}")
                        wrong += 1
        except DamagedShard:
            wrong += 1
        if at >= head:
            assert verify_shard(path), at
        else:
            assert wrong, at


def test_verify_names_the_bad_row(shard, tmp_path):
    path = shard(tmp_path / "a.h5", codec="raw")
    content = path.read_bytes()
    with h5py.File(path) as file:
        chunk = file["views"].id.get_chunk_info_by_coord((1, 0, 0, 0, 0))
    path.write_bytes(flipped(content, chunk.byte_offset + 100, 3))
    (bad,) = verify_shard(path)
    assert (bad.row, bad.sample_id) == (1, "mouse-0001")
    assert str(path) in str(bad)
    assert "checksum" in bad.why


def test_verify_tells_a_damaged_header_without_dying_of_it(shard, tmp_path):
    path = shard(tmp_path / "a.h5")
    content = path.read_bytes()
    for at in (3, USER_BLOCK + 1, USER_BLOCK + 30):
        path.write_bytes(flipped(content, at, 4))
        bad = verify_shard(path)
        assert bad[0].row == -1
        assert bad[0].why


@pytest.mark.parametrize("moved", [False, True])
def test_verify_names_the_row_that_was_changed_through_hdf5(shard, tmp_path, moved):
    path = shard(tmp_path / "a.h5", codec="lz4")
    import hdf5plugin  # noqa: F401

    with h5py.File(path, "r+") as file:
        file["views"][2, 0, 0, 0] = 7
        if moved:
            file["views"][2] = 7
    bad = verify_shard(path)
    assert [row.row for row in bad] == ([-1, 2] if moved else [2])
    assert bad[-1].sample_id == "mouse-0002"


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.5, 0.9, 0.9999])
def test_a_shard_cut_off_is_told(shard, share, tmp_path):
    path = shard(tmp_path / "a.h5")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"cut off|no shard"):
        len(ShardReader(path))
    assert verify_shard(path)[0].row == -1


def test_verify_walks_a_folder(shard, tmp_path):
    good, bad = shard(tmp_path / "x" / "a.h5"), shard(tmp_path / "x" / "b.h5", range(3, 6))
    (tmp_path / "x" / ".c.h5").write_bytes(b"being written")
    assert verify(tmp_path).bad == []
    content = bad.read_bytes()
    bad.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    report = verify(tmp_path)
    assert (report.shards, report.bytes) == (2, len(content) + good.stat().st_size)
    assert {row.path for row in report.bad} == {bad}


@pytest.mark.parametrize("path", ["nothing", "empty"])
def test_nothing_to_verify_is_wrong_input(tmp_path, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError):
        verify(tmp_path / path)


def external_link(file, folder):
    with h5py.File(folder / "elsewhere.h5", "w") as other:
        other["views"] = file["views"][...]
    del file["views"]
    file["views"] = h5py.ExternalLink(str(folder / "elsewhere.h5"), "/views")


def soft_link(file, folder):
    del file["alpha"]
    file["alpha"] = h5py.SoftLink("/views")


def virtual(file, folder):
    shape = file["w2c"].shape
    with h5py.File(folder / "elsewhere.h5", "w") as other:
        other["w2c"] = file["w2c"][...]
    layout = h5py.VirtualLayout(shape, np.float32)
    layout[...] = h5py.VirtualSource(folder / "elsewhere.h5", "w2c", shape)
    del file["w2c"]
    file.create_virtual_dataset("w2c", layout)


def external_storage(file, folder):
    shape = file["azimuth"].shape
    del file["azimuth"]
    file.create_dataset("azimuth", shape, np.float32, external=[(str(folder / "secret"), 0, 4 * 18)])


def replaced(name, **options):
    def change(file, folder):
        del file[name]
        file.create_dataset(name, **options)

    return change


def resized(file, folder):
    del file["views"]
    file.create_dataset(
        "views", (10**9, 6, 24, 24, 3), np.uint8, chunks=(1, 6, 24, 24, 3), maxshape=(None, 6, 24, 24, 3),
        fletcher32=True,
    )  # fmt: skip


def many_rows(file, folder):
    for name in list(file):
        old = file[name]
        shape, dtype, chunks = old.shape, old.dtype, old.chunks
        del file[name]
        file.create_dataset(name, (10**12, *shape[1:]), dtype, chunks=chunks, fletcher32=True)


def attribute(key, value):
    def change(file, folder):
        file.attrs[key] = value

    return change


TRAPS = {
    "external link": (external_link, "an external link for views"),
    "soft link": (soft_link, "a soft link for alpha"),
    "virtual dataset": (virtual, "w2c that is a virtual dataset"),
    "external storage": (external_storage, "azimuth that lies in an external file"),
    "missing column": (lambda file, folder: file.__delitem__("checksum"), "lacks the column checksum"),
    "foreign column": (lambda file, folder: file.create_group("more"), "'more'"),
    "group": (lambda file, folder: (file.__delitem__("w2c"), file.create_group("w2c")), "no dataset for w2c"),
    "type": (replaced("azimuth", data=np.zeros((3, 6)), chunks=(3, 6), fletcher32=True), "float64"),
    "shape": (replaced("azimuth", data=np.zeros((3, 5), "f4"), chunks=(3, 5), fletcher32=True), "azimuth"),
    "length": (replaced("azimuth", data=np.zeros((2, 6), "f4"), chunks=(2, 6), fletcher32=True), "3 rows of views"),
    "contiguous": (replaced("azimuth", data=np.zeros((3, 6), "f4")), "not chunked"),
    "unchecked": (replaced("azimuth", data=np.zeros((3, 6), "f4"), chunks=(3, 6)), "filters"),
    "rows of one column": (resized, "rows of views"),
    "rows": (many_rows, "more than the file holds"),
    "pixels": (attribute("size", 10**6), "1000000 pixels"),
    "other schema": (attribute("schema", "other"), "does not name the schema"),
    "codec": (attribute("codec", "zip"), "unknown codec"),
    "rig": (attribute("rig", 3), "rig"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_traps_are_refused_with_the_reason(shard, trap, tmp_path):
    change, reason = TRAPS[trap]
    path = shard(tmp_path / "a.h5", codec="raw")
    with h5py.File(path, "r+") as file:
        change(file, tmp_path)
    with pytest.raises(InputError, match=r"changed since|instead of"):
        len(ShardReader(path))
    apply_seal(path, path.stat().st_size)
    with pytest.raises(InputError, match=reason) as told:
        len(ShardReader(path))
    assert str(path) in str(told.value)


def test_what_is_no_shard_is_told_so(tmp_path):
    for content in (b"", b"\x89HDF\r\n\x1a\n" + bytes(2000), b"mvdiff-shard 1 size=9", b"\xff" * 600):
        (tmp_path / "a.h5").write_bytes(content)
        with pytest.raises(InputError, match="no shard"):
            len(ShardReader(tmp_path / "a.h5"))
    with pytest.raises(InputError, match="does not exist"):
        len(ShardReader(tmp_path / "b.h5"))
    with pytest.raises(InputError, match="no file"):
        len(ShardReader(tmp_path))

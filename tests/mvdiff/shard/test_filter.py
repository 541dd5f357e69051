"""What is encoded and decoded outside HDF5 is what HDF5 itself writes and reads."""

import threading

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvdiff.shard import CODECS
from mvdiff.shard.codec import Decoder, encode, filters
from mvdiff.shard.filter import Filter, fletcher32


def picture(seed: int, shape: tuple[int, ...], levels: int) -> np.ndarray:
    """uint8; with one level flat, with 256 incompressible."""
    return np.random.default_rng(seed).integers(0, levels, shape, np.uint8)


pictures = st.builds(
    picture,
    st.integers(0, 999),
    st.tuples(st.integers(1, 3), st.integers(1, 90), st.integers(1, 90), st.just(3)),
    st.sampled_from([1, 2, 16, 256]),
)


def column(folder, codec, rows):
    return folder.create_dataset(
        "views", (len(rows), *rows[0].shape), np.uint8, chunks=(1, *rows[0].shape), **filters(codec)
    )


@pytest.mark.parametrize("codec", CODECS)
@given(row=pictures)
@settings(deadline=None, max_examples=60)
def test_chunks_are_those_that_hdf5_writes_and_reads(codec, row):
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        dataset = column(file, codec, [row, row])
        dataset[0] = row
        chunk = encode(row, codec)
        dataset.id.write_direct_chunk((1, 0, 0, 0, 0), chunk)
        file.flush()
        stored = dataset.id.read_direct_chunk((0, 0, 0, 0, 0))[1]
        if codec != "gzip":  # Python's zlib and HDF5's may be two
            assert chunk == stored
        assert np.array_equal(dataset[1], row)
        decoder = Decoder(dataset, codec)
        assert np.array_equal(decoder.row(0), row) and np.array_equal(decoder.row(1), row)


@given(content=st.binary(min_size=1, max_size=3000))
def test_fletcher32_is_hdf5s(content):
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("bytes", (len(content),), np.uint8, chunks=(len(content),), fletcher32=True)
        dataset[...] = np.frombuffer(content, np.uint8)
        file.flush()
        stored = dataset.id.read_direct_chunk((0,))[1]
    assert stored == content + fletcher32(content)


@pytest.mark.parametrize("codec", ["lz4", "bitshuffle-lz4"])
def test_a_damaged_chunk_does_not_reach_the_decoder(codec):
    row = picture(0, (6, 32, 32, 3), 16)
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        dataset = column(file, codec, [row])
        chunk = bytearray(encode(row, codec))
        chunk[len(chunk) // 2] ^= 1
        dataset.id.write_direct_chunk((0, 0, 0, 0, 0), bytes(chunk))
        with pytest.raises(ValueError, match="checksum"):
            Decoder(dataset, codec).row(0)


def test_another_length_is_refused_before_memory_is_taken():
    codec = Filter("lz4", (0,))
    chunk = (1 << 60).to_bytes(8, "big") + codec.encode(np.zeros(100, np.uint8))[8:]
    with pytest.raises(ValueError, match=str(1 << 60)):
        codec.decode(chunk, 100)


def test_decoded_rows_outlive_their_decoder_and_belong_to_whoever_holds_them():
    rows = [picture(k, (64, 64), 16) for k in range(40)]
    codec = Filter("bshuf", (0, 4, 1, 0, 2))
    decoded = [codec.decode(codec.encode(row), row.size) for row in rows]
    del codec
    assert all(np.array_equal(made, row.ravel()) for made, row in zip(decoded, rows, strict=True))


def test_threads_share_a_filter():
    codec, wrong = Filter("bshuf", (0, 4, 1, 0, 2)), []

    def work(seed: int) -> None:
        for k in range(30):
            row = picture(seed * 100 + k, (50_000,), 16)
            if not np.array_equal(codec.decode(codec.encode(row), row.size), row):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong

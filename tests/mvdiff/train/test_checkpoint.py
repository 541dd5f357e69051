import errno
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvdiff.errors import InputError
from mvdiff.train.checkpoint import CheckpointStore, Keep, SaveFailed, checkpoint_hash, verify


def content(step, training="moments"):
    """Something to save that looks like a checkpoint."""

    def write(folder: Path) -> None:
        (folder / "unet").mkdir()
        (folder / "unet" / "weights.safetensors").write_bytes(bytes([step]) * 1000)
        (folder / "model_index.json").write_text("{}")
        (folder / "training").mkdir()
        (folder / "training" / "optimizer.safetensors").write_text(f"{training} of {step}")

    return write


@pytest.fixture
def store(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", say=lambda line: store.said.append(line))
    store.said = []
    return store


def test_an_empty_store_has_no_checkpoint(store):
    assert store.newest_good() is None


def test_only_the_last_ones_are_kept(store):
    for step in range(1, 6):
        store.save(step, content(step), keep=Keep(2))
    assert store.steps() == [4, 5]
    assert store.newest_good() == store.path(5)


def test_the_best_and_the_periodic_ones_stay_beside_the_last(store):
    ranking = [30, 20, 10]
    for step in range(5, 65, 5):
        store.save(step, content(step), Keep(last=2, every=25, best=2, ranking=ranking))
    assert store.steps() == [20, 25, 30, 50, 55, 60]


@given(
    st.lists(st.integers(0, 40), unique=True, min_size=1).map(sorted), st.integers(1, 4), st.integers(0, 7),
    st.integers(0, 3), st.permutations(range(41)),
)  # fmt: skip
def test_the_newest_always_stays_and_nothing_is_made_up(steps, last, every, best, ranking):
    kept = Keep(last, every, best, ranking).of(steps)
    assert steps[-1] in kept and kept <= set(steps)
    assert len(kept) >= min(last, len(steps))
    assert all(step in kept for step in steps if every and step and step % every == 0)
    if best:
        assert min(steps, key=ranking.index) in kept


FILES = [
    "manifest.json", "model_index.json", "training/optimizer.safetensors", "unet/weights.safetensors",
]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_harm_to_any_file_falls_back_and_says_so(store, name, harm):
    for step in (1, 2):
        store.save(step, content(step), keep=Keep(2))
    assert sorted(p.relative_to(store.path(2)).as_posix() for p in store.path(2).rglob("*") if p.is_file()) == FILES
    harmed = store.path(2) / name
    if harm == "remove":
        harmed.unlink()
    else:
        whole = bytearray(harmed.read_bytes())
        whole[len(whole) // 2] ^= 4
        harmed.write_bytes(whole if harm == "flip" else whole[:-1])
    assert len(verify(store.path(2))) >= 1
    assert store.newest_good() == store.path(1)
    assert len(store.said) == 1 and "step-00000002 is damaged" in store.said[0]
    assert name in store.said[0] or name == "manifest.json"


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_flipped_bit_goes_unseen(tmp_path_factory, data):
    store = CheckpointStore(tmp_path_factory.mktemp("flips"))
    checkpoint = store.save(1, content(1), keep=Keep(1))
    path = checkpoint / data.draw(st.sampled_from(FILES))
    whole = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    path.write_bytes(whole)
    assert verify(checkpoint)


def test_all_damaged_is_an_error_and_nothing_is_deleted(store):
    for step in (1, 2):
        store.save(step, content(step), keep=Keep(2))
        (store.path(step) / "model_index.json").write_text("{} ")
    before = sorted(store.folder.rglob("*"))
    with pytest.raises(InputError, match=r"no checkpoint in .* is whole: .*step-00000002.*step-00000001"):
        store.newest_good()
    assert sorted(store.folder.rglob("*")) == before


def test_a_damaged_newer_one_is_put_aside_not_deleted(store):
    for step in (1, 2, 3):
        store.save(step, content(step), keep=Keep(3))
    for step in (2, 3):
        (store.path(step) / "model_index.json").write_text("{} ")
    store.save(2, content(2), keep=Keep(1))
    assert store.newest_good() == store.path(2) and not store.said
    assert store.steps() == [2]
    aside = sorted(path.name[:21] for path in store.folder.glob("damaged-*"))
    assert aside == ["damaged-step-00000002", "damaged-step-00000003"]


def test_a_manifest_cannot_point_outside(store):
    checkpoint = store.save(1, content(1), keep=Keep(1))
    for name in ("../../secret", "/etc/passwd"):
        (checkpoint / "manifest.json").write_text(f'{{"{name}": {{"size": 1, "xxh3": "0"}}}}')
        assert verify(checkpoint) == [f"{checkpoint / 'manifest.json'} is damaged"]


def test_the_hash_names_what_generation_loads(store):
    store.save(1, content(1), keep=Keep(9))
    first = checkpoint_hash(store.path(1))
    shutil.copytree(store.path(1), store.path(7))
    assert checkpoint_hash(store.path(7)) == first
    store.save(9, content(1, training="other moments"), keep=Keep(9))
    assert checkpoint_hash(store.path(9)) == first
    store.save(10, content(10), keep=Keep(9))
    assert checkpoint_hash(store.path(10)) != first
    with pytest.raises(InputError, match=r"no manifest\.json"):
        checkpoint_hash(store.folder)


def test_two_processes_cannot_write_to_one_store(store):
    with (
        store.held(),
        pytest.raises(InputError, match="another process is training"),
        CheckpointStore(store.folder).held(),
    ):
        pass
    with CheckpointStore(store.folder).held():
        pass


def test_a_write_that_fails_leaves_what_was_there(store):
    store.save(1, content(1), keep=Keep(1))

    def write(folder: Path) -> None:
        content(2)(folder)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(SaveFailed, match=r"step 2 .*Input/output error"):
        store.save(2, write, keep=Keep(1))
    assert store.newest_good() == store.path(1)
    assert [path.name for path in store.folder.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("library", ["plain", "safetensors"])
def test_a_full_disk_costs_the_new_checkpoint_only(small_disk, library):
    import torch
    from safetensors.torch import save_file

    store = CheckpointStore(small_disk / library)
    store.save(1, content(1), keep=Keep(1))

    def write(folder: Path) -> None:
        content(2)(folder)
        if library == "plain":
            (folder / "big").write_bytes(bytes(8 << 20))
        else:
            save_file({"big": torch.zeros(2 << 20)}, folder / "big.safetensors")

    with pytest.raises(SaveFailed, match="No space left"):
        store.save(2, write, keep=Keep(1))
    assert store.newest_good() == store.path(1)
    store.save(3, content(3), keep=Keep(1))
    assert store.steps() == [3]

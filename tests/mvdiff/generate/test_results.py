import pickle
from dataclasses import replace

import numpy as np
import pytest

from mvdiff.errors import InputError
from mvdiff.generate import ResultStore
from mvdiff.shard import CorruptRow, ShardDataset, ShardReader


@pytest.fixture
def folder(bench):
    plan = bench.plan()
    bench.work(plan)
    return plan.folder


def test_it_reads_by_id_and_in_order(folder):
    store = ResultStore(folder)
    assert len(store) == 10
    assert "mouse-004" in store and "rat" not in store
    pairs = list(store)
    assert [sample_id for sample_id, _ in pairs] == store.ids()
    for sample_id, views in pairs:
        assert views.dtype == np.uint8 and views.shape == (6, 16, 16, 3)
        assert np.array_equal(views, store[sample_id])
    with pytest.raises(KeyError, match="rat"):
        store["rat"]


def test_the_folder_above_one_set_is_as_good_as_the_set(bench, folder):
    assert ResultStore(bench.results).ids() == ResultStore(str(folder)).ids()


def test_two_sets_are_never_mixed(bench, folder):
    other = bench.plan(recipe=replace(bench.recipe, seed=8))
    bench.work(other)
    with pytest.raises(InputError, match=f"2 result sets .*{other.folder.name}"):
        ResultStore(bench.results)
    assert not np.array_equal(ResultStore(other.folder)["mouse-000"], ResultStore(folder)["mouse-000"])


def test_a_read_opens_the_file_it_needs_and_no_other(folder):
    store = ResultStore(folder)
    expected = store["mouse-001"]
    kept = pickle.loads(pickle.dumps(store))
    for path in folder.glob("slice-*.h5"):
        if path.name != "slice-0000-000000.h5":
            path.unlink()
    assert np.array_equal(kept["mouse-001"], expected)


def test_more_files_than_are_kept_open(bench):
    plan = bench.plan(slice_size=1, recipe=replace(bench.recipe, batch=1))
    bench.work(plan)
    assert len(plan.published()) == 10
    store = ResultStore(plan.folder)
    first = dict(store)
    assert all(np.array_equal(views, first[sample_id]) for sample_id, views in store)


def test_a_flipped_bit_is_never_returned(folder):
    path = folder / "slice-0000-000001.h5"
    store = ResultStore(folder)
    content = bytearray(path.read_bytes())
    step = len(content) // 50
    for place in range(step, len(content), step):
        content[place] ^= 16
    expected = {sample_id: views.copy() for sample_id, views in ResultStore(folder)}
    path.write_bytes(content)
    refused = 0
    for sample_id in ("mouse-004", "mouse-005", "mouse-006", "mouse-007"):
        try:
            assert np.array_equal(pickle.loads(pickle.dumps(store))[sample_id], expected[sample_id])
        except InputError as error:
            refused += 1
            assert "slice-0000-000001.h5" in str(error)
    assert refused


def test_results_are_shards_for_training_and_evaluation(folder):
    data = ShardDataset(folder)
    assert len(data) == 10
    assert data.rig == "mouse"


def test_a_set_without_results_says_so(bench):
    plan = bench.plan()
    with pytest.raises(InputError, match="no results yet"):
        ResultStore(plan.folder)


def test_a_missing_folder_says_so(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        ResultStore(tmp_path / "nowhere")


def test_a_corrupt_row_is_named(folder):
    path = folder / "slice-0000-000000.h5"
    reader = ShardReader(path)
    damaged = reader.sample(2)
    del reader
    import h5py

    with h5py.File(path, "r+") as file:
        file["azimuth"][2] = damaged.azimuth + 1
    with pytest.raises(CorruptRow, match="mouse-002"):
        ResultStore(folder)["mouse-002"]

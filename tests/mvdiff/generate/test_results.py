import pickle
import shutil
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest

from mvdiff.errors import InputError
from mvdiff.evaluate.evaluation import evaluate
from mvdiff.evaluate.settings import EvaluateSettings
from mvdiff.generate import ResultStore, make_plan, sample_seed
from mvdiff.generate.audit import audit
from mvdiff.generate.status import quarantined
from mvdiff.shard import CorruptRow, DamagedShard, ShardDataset, ShardIndex, ShardReader, ShardWriter, verify


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


def test_results_are_shards_for_training_and_evaluation(bench, folder):
    data, store, inputs = ShardDataset(folder), ResultStore(folder), ShardDataset(bench.data)
    assert sorted(data.ids) == sorted(inputs.ids) and sorted(data.recordings) == sorted(inputs.recordings)
    assert (data.rig, data.size) == (inputs.rig, 16)
    for sample in data:
        assert np.array_equal(sample.views, store[sample.sample_id])
    assert len(ShardIndex.scan(folder)) == 10
    # a second generation from what the first one made
    again = make_plan(bench.results / "again", ShardIndex.scan(folder), bench.recipe, slice_size=4, codec="lz4")
    assert bench.work(again) == "done"
    assert sorted(ResultStore(again.folder).ids()) == sorted(inputs.ids)


def test_results_can_be_evaluated_against_their_inputs(bench, folder, tmp_path):
    settings = EvaluateSettings(train_samples=4, page=4, tile=16)
    summary = evaluate(folder, bench.data, folder, tmp_path / "report", settings=settings)
    assert summary.samples == 10 and not summary.unreadable
    (folder / "slice-0000-000001.h5").write_bytes(b"rotten")
    summary = evaluate(folder, bench.data, None, tmp_path / "report", settings=settings)
    assert summary.samples == 6 and sorted(summary.unreadable) == [f"mouse-{k:03d}" for k in range(4, 8)]


def test_what_a_slice_had_to_leave_out_is_not_there(bench, sampler):
    def picky(images, seeds):
        if sample_seed(7, "mouse-005") in seeds:
            raise ValueError("no")
        return sampler(images, seeds)

    plan = bench.plan()
    bench.work(plan, sampler=picky)
    expected = [f"mouse-{k:03d}" for k in range(10) if k != 5]
    store = ResultStore(plan.folder)
    assert store.ids() == expected and len(store) == 9 and "mouse-005" not in store
    assert [sample_id for sample_id, _ in store] == expected
    for ledger in (plan.folder / "ledger").iterdir():
        ledger.unlink()
    assert ResultStore(plan.folder).ids() == expected

    again = bench.plan(retry=quarantined)
    assert len(again.segments) == 2
    assert "mouse-005" not in ResultStore(plan.folder)
    bench.work(again, "w1")
    store = ResultStore(plan.folder)
    assert len(store) == 10
    seed = sample_seed(7, "mouse-005")
    assert np.array_equal(store["mouse-005"], sampler(ShardDataset(bench.data)[5].views[:1], [seed])[0])


def test_only_published_slices_count(folder):
    (folder / "slice-0000-000000.h5").unlink()
    store = ResultStore(folder)
    assert store.ids() == [f"mouse-{k:03d}" for k in range(4, 10)] and len(store) == 6 and "mouse-000" not in store
    assert store.identity() == folder.name == store.attributes()["result_set"]


def test_to_open_a_set_opens_no_file(folder):
    for path in folder.glob("slice-*.h5"):
        path.write_bytes(b"rotten")
    store = ResultStore(folder)
    assert len(store) == 10
    with pytest.raises(DamagedShard, match=r"slice-0000-000001\.h5"):
        store["mouse-004"]


def test_an_unreadable_file_without_a_word_in_the_ledger_hides_no_sample(folder):
    shutil.rmtree(folder / "ledger")
    (folder / "slice-0000-000001.h5").write_bytes(b"rotten")
    store = ResultStore(folder)
    assert len(store) == 10 and store["mouse-000"].shape == (6, 16, 16, 3)
    with pytest.raises(DamagedShard, match=r"slice-0000-000001\.h5"):
        store["mouse-004"]


def test_a_file_that_lacks_what_the_ledger_promises_says_so(bench, folder):
    first, second = (folder / f"slice-0000-00000{k}.h5" for k in range(2))
    first.write_bytes(second.read_bytes())
    with pytest.raises(DamagedShard, match="lacks the sample mouse-000"):
        ResultStore(folder)["mouse-000"]


def test_a_forked_process_reads_with_files_of_its_own(folder):
    store = ResultStore(folder)
    expected = dict(store)
    with get_context("fork").Pool(2) as pool:
        for sample_id, views in zip(store.ids(), pool.map(store.__getitem__, store.ids()), strict=True):
            assert np.array_equal(views, expected[sample_id])


def test_a_file_that_is_replaced_under_a_forked_reader_is_never_misread(folder):
    store, path = ResultStore(folder), folder / "slice-0000-000000.h5"
    expected = dict(store)
    other = folder / "slice-0000-000001.h5"
    path.unlink()
    shutil.copy(other, path)
    with get_context("fork").Pool(1) as pool, pytest.raises(InputError, match="replaced"):
        pool.apply(store.__getitem__, ("mouse-000",))
    assert np.array_equal(store["mouse-004"], expected["mouse-004"])


def test_plain_shards_are_results_too(bench):
    store, data = ResultStore(bench.data), ShardDataset(bench.data)
    assert store.ids() == list(data.ids) and len(store.identity()) == 32
    assert np.array_equal(store["mouse-007"], data[7].views)


HOSTILE = ["..", "../x", "/etc/passwd", ".hidden", "a\nb", " ", "쥐" * 300, "\u2028", "%2E", "x" * 1024, '"quoted"']


def test_any_id_goes_from_a_shard_through_generation_to_the_store(bench, make_sample, tmp_path):
    for path in bench.data.glob("*.h5"):
        path.unlink()
    with ShardWriter(bench.data / "a.h5", size=16, rig="mouse", codec="raw", with_alpha=False) as writer:
        for sample_id in HOSTILE:
            writer.append(make_sample(sample_id))
        writer.publish()

    def refuses(images, seeds):
        if sample_seed(7, "\u2028") in seeds:
            raise ValueError("no")
        return noise(images, seeds)

    def noise(images, seeds):
        return np.stack([np.full((6, *images.shape[1:]), seed % 251, np.uint8) for seed in seeds])

    plan = bench.plan()
    assert bench.work(plan, sampler=refuses) == "done"
    store = ResultStore(plan.folder)
    assert store.ids() == [sample_id for sample_id in HOSTILE if sample_id != "\u2028"]
    for sample_id, views in store:
        assert (views == sample_seed(7, sample_id) % 251).all()
    assert quarantined(plan) == {"\u2028": "ValueError: no"}
    found = audit(plan.folder)
    assert (found.good, list(found.quarantined), found.missing, found.flawed) == (10, ["\u2028"], [], [])
    assert verify(plan.folder).bad == []
    assert {path.name for path in tmp_path.iterdir()} == {"data", "results"}


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

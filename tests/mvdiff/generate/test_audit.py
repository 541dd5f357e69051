"""An audit finds what is wrong with a result set, and what is not."""

import shutil
from dataclasses import replace

import h5py
import pytest

from mvdiff.errors import InputError
from mvdiff.generate import sample_seed
from mvdiff.generate.audit import audit
from mvdiff.generate.status import quarantined
from mvdiff.shard import ShardReader, ShardWriter

ALL = [f"mouse-{k:03d}" for k in range(10)]


@pytest.fixture
def folder(bench):
    plan = bench.plan()
    bench.work(plan)
    return plan.folder


@pytest.fixture
def picky(sampler):
    """A sampler that fails for mouse-005."""

    def sample(images, seeds):
        if sample_seed(7, "mouse-005") in seeds:
            raise ValueError("no")
        return sampler(images, seeds)

    return sample


def damage(path, row):
    """Flip a bit in the middle of a row's pictures."""
    with h5py.File(path) as file:
        place = file["views"].id.get_chunk_info_by_coord((row, 0, 0, 0, 0))
    content = bytearray(path.read_bytes())
    content[place.byte_offset + place.size // 2] ^= 4
    path.write_bytes(content)


def rewrite(path, keep):
    """The shard at ``path`` with the rows ``keep`` alone."""
    reader = ShardReader(path)
    attributes = {key: reader.attributes[key] for key in reader.attributes.keys() - OWN}
    rows = [reader.sample(row) for row in keep]
    path.unlink()
    with ShardWriter(path, size=16, rig="mouse", codec="lz4", with_alpha=False, attributes=attributes) as writer:
        for row in rows:
            writer.append(row)
        writer.publish()


OWN = {"schema", "version", "size", "rig", "codec"}


def test_a_finished_set_is_perfect(folder):
    found = audit(folder)
    assert (found.samples, found.good, found.missing, found.quarantined, found.flawed) == (10, 10, [], {}, [])
    assert found.files == 3 and found.bytes == sum(path.stat().st_size for path in folder.glob("slice-*.h5"))


def test_what_is_not_generated_yet_is_missing(bench, folder):
    (folder / "slice-0000-000001.h5").unlink()
    bench.add_data("c.h5", range(10, 12))
    bench.plan()
    found = audit(folder)
    assert found.missing == [*ALL[4:8], "mouse-010", "mouse-011"]
    assert (found.samples, found.good, found.flawed, found.files) == (12, 6, [], 2)


def test_a_flipped_bit_costs_a_row_and_the_rest_is_good(folder):
    path = folder / "slice-0000-000001.h5"
    damage(path, 2)
    found = audit(folder)
    (one,) = found.flawed
    assert (one.name, one.path, one.good, one.lost) == ("0000-000001", path, [0, 1, 3], ["mouse-006"])
    assert [(row.row, row.sample_id) for row in found.bad] == [(2, "mouse-006")]
    assert found.missing == ["mouse-006"] and found.good == 9


@pytest.mark.parametrize("content", [b"", b"rotten", None])
def test_a_file_that_cannot_be_read_costs_all_its_samples(folder, content):
    path = folder / "slice-0000-000001.h5"
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    found = audit(folder)
    (one,) = found.flawed
    assert (one.path, one.good, one.lost) == (path, [], ALL[4:8])
    assert found.missing == ALL[4:8] and found.good == 6
    assert one.bad[0].row == -1


def test_files_decide_and_not_the_ledger(folder):
    rewrite(folder / "slice-0000-000001.h5", [0, 3])
    found = audit(folder)
    (one,) = found.flawed
    assert (one.bad, one.good, one.lost) == ([], [0, 1], ["mouse-005", "mouse-006"])
    assert found.missing == ["mouse-005", "mouse-006"] and found.quarantined == {}
    (folder / "slice-0000-000000.h5").unlink()
    assert audit(folder).missing == [*ALL[:4], "mouse-005", "mouse-006"]


def test_a_file_of_another_set_is_no_result_of_this_one(bench, folder, tmp_path):
    other = bench.plan(tmp_path / "other", recipe=replace(bench.recipe, seed=8))
    bench.work(other)
    shutil.copy(other.folder / "slice-0000-000001.h5", folder)
    found = audit(folder)
    assert found.missing == ALL[4:8] and other.folder.name in str(found.bad[0])


def test_a_file_under_another_slice_s_name_is_found(folder):
    shutil.copy(folder / "slice-0000-000000.h5", folder / "slice-0000-000001.h5")
    found = audit(folder)
    (one,) = found.flawed
    assert [row.sample_id for row in one.bad] == ALL[:4] and "not planned" in one.bad[0].why
    assert one.good == [] and found.missing == ALL[4:8] and found.good == 6


@pytest.mark.parametrize("ledger", ["whole", "without the last word"])
def test_a_sample_that_failed_is_quarantined_and_not_missing(bench, picky, ledger):
    plan = bench.plan()
    bench.work(plan, sampler=picky)
    if ledger == "without the last word":
        (path,) = (plan.folder / "ledger").iterdir()
        lines = path.read_text().splitlines()
        path.write_text("\n".join(line for line in lines if '"published"' not in line) + "\n")
    found = audit(plan.folder)
    assert (found.samples, found.good, found.missing, found.flawed) == (10, 9, [], [])
    assert found.quarantined == {"mouse-005": "ValueError: no"}


def test_what_nobody_knows_to_have_failed_is_missing(bench, picky):
    plan = bench.plan()
    bench.work(plan, sampler=picky)
    shutil.rmtree(plan.folder / "ledger")
    found = audit(plan.folder)
    assert (found.missing, found.quarantined) == (["mouse-005"], {})
    assert [one.lost for one in found.flawed] == [["mouse-005"]]


def test_a_retry_that_succeeds_makes_the_set_whole(bench, picky):
    plan = bench.plan()
    bench.work(plan, sampler=picky)
    again = bench.plan(retry=quarantined)
    before = audit(plan.folder)
    assert (before.missing, before.quarantined, before.samples) == (["mouse-005"], {}, 10)
    bench.work(again, "w1")
    found = audit(plan.folder)
    assert (found.good, found.missing, found.quarantined, found.flawed) == (10, [], {}, [])


def test_a_lost_row_that_another_slice_holds_is_no_flaw(bench, picky, folder):
    rewrite(folder / "slice-0000-000001.h5", [0, 2, 3])
    lost = audit(folder).missing
    again = bench.plan(retry=lambda plan: lost if len(plan.segments) == 1 else [])
    assert len(again.segments) == 2
    bench.work(again, "w1")
    found = audit(folder)
    assert (found.good, found.missing, found.flawed) == (10, [], [])


def test_what_is_no_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="no result set"):
        audit(tmp_path)

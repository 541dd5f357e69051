import json
import os
from dataclasses import replace

import numpy as np
import pytest

from mvdiff.errors import InputError
from mvdiff.generate import Plan
from mvdiff.generate.plan import Segment, record_type
from mvdiff.rig import RIGS
from mvdiff.shard import ShardReader


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_sample_is_planned_once_in_fixed_slices(bench):
    plan = bench.plan()
    slices = list(plan)
    assert [len(part) for part in slices] == [4, 4, 2]
    assert [name for part in slices for name in part.ids] == [f"mouse-{k:03d}" for k in range(10)]
    assert [part.name for part in slices] == list(plan.sizes())
    for part in slices:
        for shard, row, sample_id, checksum in zip(part.shards, part.rows, part.ids, part.checksums, strict=True):
            read = ShardReader(shard).sample(row)
            assert (read.sample_id, read.checksum()) == (sample_id, checksum)


def test_the_same_call_again_changes_no_byte(bench):
    before = files(bench.plan().folder)
    assert files(bench.plan(slice_size=2).folder) == before


def test_samples_that_came_later_are_planned_beside_what_was_planned(bench):
    first = bench.plan()
    before = files(first.folder)
    bench.add_data("c.h5", range(10, 14))
    plan = bench.plan()
    assert plan.samples == 14
    assert plan.segments[1].ids == ["mouse-010", "mouse-011", "mouse-012", "mouse-013"]
    assert before.items() <= files(plan.folder).items()


def test_a_limit_or_a_choice_of_ids_plans_no_more_than_asked(bench):
    assert bench.plan(limit=3).samples == 3
    assert bench.plan(ids=["mouse-007", "mouse-001"]).samples == 4
    plan = bench.plan()
    assert plan.samples == 10
    assert sorted(name for part in plan for name in part.ids) == [f"mouse-{k:03d}" for k in range(10)]


def test_unknown_ids_are_named(bench):
    with pytest.raises(InputError, match=r"no sample 'rat' and 1 more"):
        bench.plan(ids=["mouse-001", "rat", "vole"])
    assert not bench.results.exists()


def test_another_checkpoint_is_another_result_set(bench):
    first = bench.plan()
    bench.work(first)
    other = bench.plan(recipe=replace(bench.recipe, checkpoint="beef"))
    assert other.folder != first.folder
    assert other.published() == set()


def test_a_picture_that_changed_under_its_id_is_refused(bench):
    bench.plan()
    bench.change_data("b.h5", "mouse-006")
    with pytest.raises(InputError, match=r"sample mouse-006 .* is not the picture"):
        bench.plan()


def test_data_of_another_rig_is_refused(bench, monkeypatch):
    monkeypatch.setitem(RIGS, "other", replace(RIGS["mouse"], name="other"))
    with pytest.raises(InputError, match="rig mouse, the checkpoint makes views of other"):
        bench.plan(recipe=replace(bench.recipe, rig="other"))


def test_planners_that_race_end_with_one_plan(bench):
    children = []
    for limit in (None, None, 5, 7):
        child = os.fork()
        if not child:
            try:
                bench.plan(limit=limit)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    plan = bench.plan()
    planned = [name for part in plan for name in part.ids]
    assert sorted(planned) == [f"mouse-{k:03d}" for k in range(10)]
    assert len(list(plan.folder.glob("*.npy"))) == len(list(plan.folder.glob("plan-*.json"))) == len(plan.segments)
    assert not list(plan.folder.glob(".*"))


def test_a_segment_number_is_given_once(bench):
    plan = bench.plan(limit=2)
    segment = replace(plan.segments[0], number=1)
    other = replace(segment, entries=segment.entries[:1])
    assert segment.publish(plan.folder)
    before = files(plan.folder)
    assert not other.publish(plan.folder)
    assert not segment.publish(plan.folder)
    assert files(plan.folder) == before


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_plan_is_refused(bench, harm):
    folder = bench.plan().folder
    path = next(folder.glob("*.npy"))
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[-40] ^= 1
        path.write_bytes(content)
    elif harm == "cut":
        path.write_bytes(content[:-40])
    else:
        path.unlink()
    with pytest.raises(InputError, match="missing or damaged"):
        Plan.load(folder)


def test_a_plan_of_another_version_is_refused(bench):
    folder = bench.plan().folder
    path = folder / "plan-0000.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))
    with pytest.raises(InputError, match="version 99"):
        Plan.load(folder)


def test_a_folder_without_a_plan_is_refused(tmp_path):
    with pytest.raises(InputError, match="no result set"):
        Plan.load(tmp_path)


def test_a_long_plan_is_read_by_position(bench):
    count = 100_000
    entries = np.zeros(count, record_type(8))
    entries["row"] = np.arange(count)
    entries["sample_id"] = np.arange(count).astype("S")
    folder = bench.plan(limit=1).folder
    assert Segment(1, 32, "raw", 0, ["/data/a.h5"], entries).publish(folder)
    plan = Plan.load(folder)
    assert len(plan) == 1 + count // 32
    part = plan.slice_at(len(plan) - 1)
    assert part.ids[-1] == str(count - 1) and part.rows[-1] == count - 1
    with pytest.raises(IndexError):
        plan.slice_at(len(plan))

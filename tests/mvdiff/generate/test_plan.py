import json
import os
import secrets
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mvdiff.errors import InputError
from mvdiff.generate import Plan
from mvdiff.generate.asked import Asked
from mvdiff.generate.mended import mended
from mvdiff.generate.plan import RECORD, Segment
from mvdiff.generate.status import quarantined
from mvdiff.rig import RIGS
from mvdiff.shard import ShardIndex, ShardReader


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
    with pytest.raises(InputError, match=r"no sample is called 'rat' and 1 more"):
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


@pytest.mark.parametrize("round_", range(5))
def test_planners_that_race_end_with_one_plan(bench, round_):
    children = []
    begin, started = os.pipe()
    asks = [{}, {}, {"limit": 5}, {"limit": 7}, {"shards": ["b"]}, {"ids": ["mouse-002", "mouse-008"]}]
    for ask in asks:
        child = os.fork()
        if not child:
            try:
                os.close(started)
                os.read(begin, 1)
                bench.plan(**ask)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    os.close(started)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(asks)
    os.close(begin)
    plan = Plan.load(next(bench.results.iterdir()))
    planned = [name for part in plan for name in part.ids]
    assert sorted(planned) == [f"mouse-{k:03d}" for k in range(10)]
    assert len(list(plan.folder.glob("*.npy"))) == len(list(plan.folder.glob("plan-*.json"))) == len(plan.segments)
    assert not list(plan.folder.glob(".*"))


def test_planners_of_two_programs_end_with_one_plan(bench, tmp_path):
    program = """
import json, sys
from pathlib import Path
from mvdiff.generate import Recipe, make_plan
from mvdiff.shard import ShardIndex
data, results, recipe = sys.argv[1:]
index = ShardIndex.scan(Path(data))
sys.stdin.read()
plan = make_plan(Path(results), index, Recipe(**json.loads(recipe)), slice_size=4, codec="raw")
print([name for part in plan for name in part.ids])
"""
    command = [sys.executable, "-c", program, bench.data, bench.results, json.dumps(asdict(bench.recipe))]
    planners = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for planner in planners:
        planner.stdin.close()
    told = [planner.stdout.read() for planner in planners]
    assert [planner.wait() for planner in planners] == [0] * 3
    assert len(set(told)) == 1 and told[0].count("mouse-") == 10


ASKS = st.fixed_dictionaries(
    {
        "limit": st.none() | st.integers(1, 12),
        "ids": st.none() | st.lists(st.integers(0, 5).map("mouse-{:03d}".format), min_size=1),
        "shards": st.sampled_from([None, ["a"], ["*.h5"], ["a.h5", "b*"]]),
        "slice_size": st.integers(1, 5),
    }
)


@given(st.lists(ASKS, max_size=6))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_is_asked_in_whatever_order_plans_each_sample_once(bench, asks):
    results = bench.results / secrets.token_hex(4)
    wanted = set()
    for ask in asks:
        shards = range(6) if ask["shards"] == ["a"] else range(10)
        names = sorted({f"mouse-{k:03d}" for k in shards} & set(ask["ids"] or [f"mouse-{k:03d}" for k in shards]))
        wanted |= set(names[: ask["limit"]])
        plan = bench.plan(results, **ask)
        assert sorted(name for part in plan for name in part.ids) == sorted(wanted)
    plan = bench.plan(results)
    assert sorted(name for part in plan for name in part.ids) == [f"mouse-{k:03d}" for k in range(10)]
    assert plan.samples == sum(plan.sizes().values()) == 10


def test_a_shard_that_was_unreadable_is_planned_when_it_is_mended(bench):
    path = bench.data / "b.h5"
    good = path.read_bytes()
    path.write_bytes(good[:900])
    assert bench.plan().samples == 6
    path.write_bytes(good)
    plan = bench.plan()
    assert plan.samples == 10
    assert plan.segments[1].ids == [f"mouse-{k:03d}" for k in range(6, 10)]


def test_a_sample_whose_input_was_damaged_is_planned_again_once_that_is_mended(bench):
    path = bench.data / "b.h5"
    good = path.read_bytes()
    with ShardReader(path) as reader:
        begin = good.index(reader.sample(2).views.tobytes())
    path.write_bytes(good[:begin] + bytes([good[begin] ^ 1]) + good[begin + 1 :])
    index = ShardIndex.scan(bench.data)
    plan = bench.plan(retry=lambda plan: mended(plan, index))
    bench.work(plan)
    assert quarantined(plan).keys() == {"mouse-008"}
    again = bench.plan(retry=lambda plan: mended(plan, index))
    assert len(again.segments) == 1, "what is still damaged is not tried again"
    path.write_bytes(good)
    again = bench.plan(retry=lambda plan: mended(plan, index))
    assert again.segments[1].ids == ["mouse-008"]
    assert bench.work(again) == "done"
    assert quarantined(again) == {}
    assert (again.samples, len(bench.plan(retry=lambda plan: mended(plan, index)).segments)) == (10, 2)


def test_what_was_asked_is_remembered_beside_the_plan(bench):
    folder = bench.plan().folder
    assert Asked.load(folder) is None
    bad = {Path("/data/x.h5"): "/data/x.h5 is cut off"}
    Asked.remember(folder, Path("/runs/a/checkpoints/step-00000001"), Path("/data/one"), bad)
    Asked.remember(folder, Path("/elsewhere/step-00000001"), Path("/data/two"), {})
    Asked.remember(folder, Path("/elsewhere/step-00000001"), Path("/data/one"), {})
    assert Asked.load(folder) == Asked("/elsewhere/step-00000001", ["/data/two", "/data/one"], {})
    (folder / "asked.json").write_text("{}")
    with pytest.raises(InputError, match=r"asked\.json cannot be read"):
        Asked.load(folder)


def test_a_segment_number_is_given_once(bench):
    plan = bench.plan(limit=2)
    segment = replace(plan.segments[0], number=1)
    other = replace(segment, codec="raw")
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
    entries = np.zeros(count, RECORD)
    entries["row"] = np.arange(count)
    names = np.frombuffer("".join(f"{k}\0" for k in range(count)).encode(), np.uint8)
    folder = bench.plan(limit=1).folder
    assert Segment(1, 32, "raw", 0, ["/data/a.h5"], entries, names).publish(folder)
    plan = Plan.load(folder)
    assert len(plan) == 1 + count // 32
    part = plan.slice_at(len(plan) - 1)
    assert part.ids[-1] == str(count - 1) and part.rows[-1] == count - 1
    with pytest.raises(IndexError):
        plan.slice_at(len(plan))

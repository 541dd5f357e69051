import errno
import json
import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from mvdiff.generate import Plan, ResultStore, sample_seed, status
from mvdiff.generate.audit import audit
from mvdiff.generate.lease import LeaseBook
from mvdiff.generate.ledger import read_ledger
from mvdiff.generate.owner import Owner
from mvdiff.generate.repair import take_back
from mvdiff.rig import RIGS
from mvdiff.shard import ShardReader, ShardWriter, verify_shard
from tests.mvdiff.generate.workers import QUICK, seeds_of, settled


def test_every_sample_comes_out_once_with_its_cameras(bench, sampler, read_input):
    plan = bench.plan()
    assert bench.work(plan) == "done"
    store = ResultStore(plan.folder)
    assert store.ids() == [f"mouse-{k:03d}" for k in range(10)]
    for sample_id in store.ids():
        made, given = store.sample(sample_id), read_input(sample_id)
        expected = sampler(given.views[:1], [sample_seed(bench.recipe.seed, sample_id)])[0]
        assert np.array_equal(made.views, expected)
        assert made.recording == given.recording
        for column in ("w2c", "intrinsics", "azimuth", "elevation"):
            assert np.array_equal(getattr(made, column), getattr(given, column))
    attributes = store.attributes()
    assert {name: attributes[name] for name in ("checkpoint", "seed", "steps", "guidance", "reference_view")} == {
        "checkpoint": "c0ffee", "seed": 7, "steps": 2, "guidance": 1.0, "reference_view": 0,
    }  # fmt: skip
    assert status(plan.folder).finished
    assert settled(plan.folder)


def test_batches_are_the_same_whoever_does_them(bench, sampler):
    seen = []

    def watched(images, seeds):
        seen.append(tuple(seeds))
        return sampler(images, seeds)

    plan = bench.plan()
    bench.work(plan, sampler=watched)
    assert sorted(len(batch) for batch in seen) == [2, 2, 2, 2, 2]
    ids = [f"mouse-{k:03d}" for k in range(10)]
    expected = [tuple(sample_seed(7, name) for name in ids[k : k + 2]) for k in range(0, 10, 2)]
    assert sorted(seen) == sorted(expected)


def test_three_workers_at_once_make_the_same_bytes_as_one(bench, calm):
    plan = bench.plan()
    outcomes = {}
    threads = [
        threading.Thread(target=lambda name=name: outcomes.update({name: bench.work(plan, name)}))
        for name in ("w0", "w1", "w2")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {"w0": "done", "w1": "done", "w2": "done"}
    assert bench.hashes(plan.folder) == calm
    lines = [line for line in read_ledger(plan.folder) if line["kind"] == "published"]
    assert sorted(line["slice"] for line in lines) == list(plan.sizes())


def test_a_worker_stopped_after_every_batch_loses_nothing_and_repeats_nothing(bench, calm, sampler):
    plan = bench.plan()
    calls = []

    def watched(images, seeds):
        calls.extend(seeds)
        return sampler(images, seeds)

    rounds = 0
    while bench.work_one_batch(plan, f"w{rounds}", watched) == "stopped":
        rounds += 1
        assert status(plan.folder).running == 0
    assert rounds == 5
    assert len(calls) == len(set(calls)) == 10
    assert bench.hashes(plan.folder) == calm


def test_a_worker_asked_to_stop_at_once_claims_nothing(bench):
    plan = bench.plan()
    assert bench.work(plan, should_stop=lambda: True) == "stopped"
    assert status(plan.folder).missing == 10


def test_nothing_left_to_do_is_done_without_a_call_of_the_sampler(bench):
    plan = bench.plan()
    bench.work(plan)
    assert bench.work(plan, "w1", sampler=None) == "done"


def test_a_slice_that_another_machine_holds_is_waited_for_until_it_is_silent_or_a_twin_has_made_it(bench, calm):
    plan = bench.plan()
    holder = LeaseBook(plan.folder / "leases", replace(Owner.here("gone"), machine="elsewhere"), 60.0)
    assert holder.claim("0000-000001") is not None
    assert bench.work(plan, "w1", settings=QUICK | {"lease_seconds": 3600.0}) == "done"
    assert bench.hashes(plan.folder) == calm
    assert settled(plan.folder)


def test_a_worker_ends_with_its_last_slice_however_seldom_it_looks_at_those_of_others(bench):
    started = time.monotonic()
    assert bench.work(bench.plan(), settings={"poll_seconds": 6000.0}) == "done"
    assert time.monotonic() - started < 60


def test_a_waiting_worker_can_be_stopped(bench):
    plan = bench.plan(limit=4)
    holder = LeaseBook(plan.folder / "leases", replace(Owner.here("busy"), machine="elsewhere"), 60.0)
    assert holder.claim("0000-000000") is not None
    deadline = time.monotonic() + 0.3
    assert bench.work(plan, should_stop=lambda: time.monotonic() > deadline) == "stopped"
    assert status(plan.folder).running == 4


def test_of_two_that_work_on_the_same_slice_the_first_to_publish_wins(bench, calm, sampler):
    plan = bench.plan(limit=4)
    slow, outcomes = threading.Event(), {}

    def waiting(images, seeds):
        assert slow.wait(30)
        return sampler(images, seeds)

    first = threading.Thread(target=lambda: outcomes.update(w0=bench.work(plan, "w0", waiting, settings=QUICK)))
    first.start()
    while status(plan.folder).running != 4:
        assert first.is_alive()
    assert bench.work(plan, "w1", settings=QUICK) == "done"
    inode = (plan.folder / "slice-0000-000000.h5").stat().st_ino
    slow.set()
    first.join()
    assert outcomes == {"w0": "done"}
    assert (plan.folder / "slice-0000-000000.h5").stat().st_ino == inode
    assert [line["worker"] for line in read_ledger(plan.folder) if line["kind"] == "published"] == ["w1"]
    assert bench.hashes(plan.folder).items() <= calm.items()
    assert settled(plan.folder)


def test_a_worker_whose_time_is_shorter_than_a_slice_claims_no_more(bench, sampler):
    plan = bench.plan()
    calls = []

    def slow(images, seeds):
        calls.append(seeds)
        time.sleep(0.05)
        return sampler(images, seeds)

    assert bench.work(plan, sampler=slow, time_left=lambda: 0.06) == "stopped"
    assert len(calls) == 2, "it had to begin one slice to know how long it takes, and ends it"
    assert status(plan.folder).done == 4
    assert bench.work(plan, "w1", slow, time_left=lambda: 60.0) == "done"


def test_a_paused_worker_that_comes_back_changes_nothing(bench, calm, sampler):
    plan = bench.plan()

    def pausing(images, seeds):
        if pausing.calls == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        pausing.calls += 1
        return sampler(images, seeds)

    pausing.calls = 0
    child = os.fork()
    if not child:
        try:
            os._exit(0 if bench.work(plan, "zombie", pausing) == "done" else 1)
        finally:
            os._exit(2)
    assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
    assert bench.work(plan, "w1", settings=QUICK) == "done"
    inodes = {path.name: path.stat().st_ino for path in plan.folder.glob("slice-*")}
    os.kill(child, signal.SIGCONT)
    assert os.waitpid(child, 0)[1] == 0
    assert {path.name: path.stat().st_ino for path in plan.folder.glob("slice-*")} == inodes
    assert bench.hashes(plan.folder) == calm
    assert {worker.name: worker.published for worker in status(plan.folder).workers} == {"w1": 10, "zombie": 0}
    assert settled(plan.folder)


def test_what_a_killed_attempt_left_is_continued_from_a_copy(bench, calm, sampler):
    plan = bench.plan(limit=4)
    bench.work_one_batch(plan)
    [left] = [path for path in (plan.folder / "attempts").iterdir() if path.is_dir()]
    before = {path.name: path.read_bytes() for path in left.iterdir()}
    assert before
    seen = []

    def watched(images, seeds):
        seen.extend(seeds)
        assert {path.name: path.read_bytes() for path in left.iterdir()} == before
        return sampler(images, seeds)

    assert bench.work(plan, "w1", watched) == "done"
    assert set(seen) == seeds_of(bench, 2, 3)
    assert bench.hashes(plan.folder).items() <= calm.items()


@pytest.mark.parametrize("harm", ["flip", "cut", "garbage"])
def test_bad_rows_of_an_earlier_attempt_are_made_again(bench, calm, harm):
    plan = bench.plan(limit=4)
    bench.work_one_batch(plan)
    [left] = [path for path in (plan.folder / "attempts").rglob("*") if path.is_file()]
    content = bytearray(left.read_bytes())
    if harm == "flip":
        content[len(content) * 3 // 4] ^= 1
    elif harm == "cut":
        del content[-100:]
    else:
        content[:] = b"garbage" * 1000
    left.write_bytes(content)
    assert bench.work(plan, "w1") == "done"
    assert bench.hashes(plan.folder).items() <= calm.items()


def test_the_reference_view_is_the_input(bench, sampler, read_input):
    plan = bench.plan(recipe=replace(bench.recipe, reference_view=2), limit=2)
    bench.work(plan)
    given = read_input("mouse-001")
    expected = sampler(given.views[2:3], [sample_seed(7, "mouse-001")])[0]
    assert np.array_equal(ResultStore(plan.folder)["mouse-001"], expected)


def test_generated_views_larger_than_the_input_carry_intrinsics_to_match(bench, sampler):
    plan = bench.plan(recipe=replace(bench.recipe, size=32), limit=2)
    bench.work(plan, sampler=lambda images, seeds: sampler(images, seeds).repeat(2, 2).repeat(2, 3))
    made = ResultStore(plan.folder).sample("mouse-001")
    assert np.allclose(made.intrinsics, RIGS["mouse"].intrinsics(32))


def test_status_opens_a_slice_whose_worker_died_before_its_ledger_line(bench, failing):
    plan = bench.plan()
    bench.work(plan, sampler=failing(seeds_of(bench, 5)))
    for path in (plan.folder / "ledger").iterdir():
        path.unlink()
    state = status(plan.folder)
    assert (state.done, state.reasons) == (9, {"mouse-005": "the worker's ledger is lost"})


def test_a_plan_that_grew_while_a_worker_ran_is_finished_by_the_next(bench):
    plan = bench.plan(limit=4)
    bench.plan()
    assert bench.work(plan) == "done"
    assert bench.work(Plan.load(plan.folder), "w1") == "done"
    assert len(ResultStore(plan.folder)) == 10
    assert all(not verify_shard(path) for path in plan.folder.glob("*.h5"))


@pytest.mark.parametrize("error", [OSError(errno.EIO, "no answer"), ValueError("anything")])
def test_what_goes_wrong_behind_the_last_batch_is_raised(bench, calm, monkeypatch, error):
    plan = bench.plan(limit=4)

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("mvdiff.generate.attempt.link_new", fail)
        with pytest.raises(type(error)):
            bench.work(plan)
    assert status(plan.folder).running == 0, "and the slice is there for others at once"
    assert bench.work(plan, "w1", sampler=None) == "done", "with all its rows"
    assert bench.hashes(plan.folder).items() <= calm.items()


def test_a_slice_taken_back_while_a_worker_runs_is_made_again_from_its_good_rows(bench, calm, sampler):
    plan = bench.plan()
    taken = []

    def repairing(images, seeds):
        path = plan.folder / "slice-0000-000000.h5"
        if not taken and path.exists():
            content = bytearray(path.read_bytes())
            content[-2000] ^= 1
            path.write_bytes(content)
            taken.extend(audit(plan.folder).flawed)
            assert take_back(plan.folder, taken) == 1
            assert take_back(plan.folder, taken) == 0, "a second repair has nothing to take back"
        return sampler(images, seeds)

    while not taken:
        assert bench.work(plan, sampler=repairing) == "done"
        if not taken:
            (plan.folder / "slice-0000-000002.h5").unlink()
    assert bench.hashes(plan.folder) == calm
    assert settled(plan.folder)


def test_what_another_version_left_is_no_hindrance(bench, calm):
    plan = bench.plan(limit=4)
    bench.work_one_batch(plan)
    [left] = [path for path in (plan.folder / "attempts").iterdir() if path.is_dir()]
    (left / ".result.part").unlink()
    with ShardWriter(left / "result", size=16, rig="mouse", codec="raw", with_alpha=False) as writer:
        assert writer.rows == 0
    assert bench.work(plan, "w1") == "done"
    assert bench.hashes(plan.folder).items() <= calm.items()


def test_copies_of_a_slice_do_not_pile_up(bench):
    plan = bench.plan(limit=8, slice_size=8)
    for start in range(3):
        bench.work_one_batch(plan, f"w{start}")
    assert len(list((plan.folder / "attempts").iterdir())) == 2


def test_the_ledger_is_json_lines_of_one_writer_a_file(bench):
    plan = bench.plan()
    bench.work(plan, "w0")
    bench.work(plan, "w0")
    files = list((plan.folder / "ledger").iterdir())
    workers = [{json.loads(line)["worker"] for line in path.read_text().splitlines()} for path in files]
    assert all(names == {"w0"} for names in workers)


def test_around_a_sampler_that_does_nothing_the_machinery_costs_little(bench, tmp_path, read_input):
    count = 300
    bench.add_data("c.h5", range(10, count))
    plan = bench.plan(slice_size=32, recipe=replace(bench.recipe, batch=8))
    views = read_input("mouse-000").views

    def cpu_seconds():
        times = os.times()
        return times.user + times.system

    start = cpu_seconds()
    for part in plan:
        with ShardWriter(tmp_path / part.name, size=16, rig="mouse", codec="lz4", with_alpha=False) as writer:
            for shard, row in zip(part.shards, part.rows, strict=True):
                writer.append(ShardReader(shard).sample(row))
            writer.publish()
    shards_alone = cpu_seconds() - start
    start = cpu_seconds()
    bench.work(plan, sampler=lambda images, seeds: np.broadcast_to(views, (len(seeds), *views.shape)))
    assert cpu_seconds() - start - shards_alone < 0.002 * count

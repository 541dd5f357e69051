"""What fails, and what it costs: samples, hosts, memory, inputs."""

import threading
import time

import numpy as np
import pytest

from mvdiff.generate import ResultStore, SamplerBroken, status
from mvdiff.generate.hosts import bad_hosts
from mvdiff.generate.ledger import read_ledger
from mvdiff.generate.owner import Owner
from mvdiff.generate.status import quarantined
from mvdiff.generate.suspects import Failure, Suspects
from tests.mvdiff.generate.workers import QUICK, seeds_of, settled


def test_a_sample_that_fails_in_the_sampler_costs_one_sample(bench, failing):
    plan = bench.plan()
    assert bench.work(plan, sampler=failing(seeds_of(bench, 5))) == "done"
    state = status(plan.folder)
    assert (state.done, state.quarantined, state.missing, state.finished) == (9, 1, 0, True)
    assert state.reasons == {"mouse-005": "FloatingPointError: no good"}
    lines = [line for line in read_ledger(plan.folder) if line["kind"] == "failed"]
    assert len(lines) == 2, "on the only host there is, a sample has two tries"
    for line in lines:
        assert line["stage"] == "sampler" and "in sample" in line["traceback"]
    store = ResultStore(plan.folder)
    assert len(store) == 9
    with pytest.raises(KeyError):
        store["mouse-005"]


def test_a_slice_of_nothing_but_failures_is_published_empty(bench, failing):
    plan = bench.plan()
    assert bench.work(plan, sampler=failing(seeds_of(bench, 8, 9))) == "done"
    state = status(plan.folder)
    assert (state.done, state.quarantined) == (8, 2)
    assert len(ResultStore(plan.folder)) == 8


def test_a_sample_is_bad_once_two_hosts_have_failed_it(bench, failing, sampler, calm):
    plan = bench.plan()
    stop = threading.Event()
    bad = failing(seeds_of(bench, 2, 5))
    worker = threading.Thread(
        target=lambda: bench.work(
            plan, "a", bad, stop.is_set, host="node-a", settings=QUICK | {"lease_seconds": 60}, only_host=False
        )
    )
    worker.start()
    while status(plan.folder).done < 2 or len(list((plan.folder / "suspects").glob("*"))) < 2:
        assert worker.is_alive()
    time.sleep(0.3)
    assert status(plan.folder).quarantined == 0
    assert worker.is_alive(), "it waits for another host's verdict"
    assert (
        bench.work(plan, "b", host="node-b", sampler=failing(seeds_of(bench, 5)), settings=QUICK, only_host=False)
        == "done"
    )
    worker.join()
    state = status(plan.folder)
    assert (state.done, set(state.reasons)) == (9, {"mouse-005"})
    store = ResultStore(plan.folder)
    calm_store = ResultStore(bench.plan(bench.results.with_name("calm")).folder)
    assert all(np.array_equal(store[name], calm_store[name]) for name in store.ids())
    assert bench.hashes(plan.folder)["slice-0000-000000.h5"] == calm["slice-0000-000000.h5"]
    assert settled(plan.folder)


def test_on_the_only_host_of_many_a_sample_waits_for_others_and_is_then_tried_again(bench, failing):
    plan = bench.plan(limit=4)
    start = time.monotonic()
    bench.work(plan, sampler=failing(seeds_of(bench, 1)), settings=QUICK, only_host=False)
    assert time.monotonic() - start > QUICK["lease_seconds"]
    assert set(status(plan.folder).reasons) == {"mouse-001"}


def test_more_bad_samples_in_a_row_than_stop_a_worker_are_quarantined_all_the_same(bench, failing, sampler):
    plan = bench.plan(slice_size=6)
    bad = failing(seeds_of(bench, 0, 1, 2, 3, 4))
    starts = 0
    for host in ("node-a", "node-b") * 4:
        starts += 1
        try:
            if bench.work(plan, f"w{starts}", bad, host=host, settings=QUICK, only_host=False) == "done":
                break
        except SamplerBroken:
            continue
    state = status(plan.folder)
    assert (state.done, sorted(state.reasons)) == (5, [f"mouse-{k:03d}" for k in range(5)])


def test_suspects_of_two_hosts_that_alternate_come_to_an_end(bench, failing):
    plan = bench.plan(limit=4)
    suspects = [Suspects(plan.folder, Owner.here(name, f"node-{name}")) for name in "ab"]
    suspects[0].add("0000-000000", {"mouse-000": Failure("sampler", "no good")})
    suspects[0].add("0000-000000", {"mouse-001": Failure("sampler", "no good")})
    assert suspects[1].hosts("0000-000000") == {"node-a": {"mouse-000", "mouse-001"}}, "what was said is not taken back"
    for path in (plan.folder / "suspects").iterdir():
        path.with_name("0000-000000.x.y.json").write_text("[]")
    assert suspects[1].hosts("0000-000000") == {"node-a": {"mouse-000", "mouse-001"}}, "a damaged file costs itself"


def test_a_node_that_fails_where_others_do_not_is_told_apart(bench):
    plan = bench.plan()

    def broken(images, seeds):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(SamplerBroken, match="illegal memory access"):
        bench.work(plan, "a", broken, host="node-a")
    assert bad_hosts(read_ledger(plan.folder), 60) == {}, "nobody has shown yet that it can be done"
    assert bench.work(plan, "b", host="node-b") == "done"
    assert list(bad_hosts(read_ledger(plan.folder), 60)) == ["node-a"]
    assert bad_hosts(read_ledger(plan.folder), 0) == {}
    assert status(plan.folder).quarantined == 0


def test_what_failed_is_planned_again_only_when_asked(bench, failing):
    plan = bench.plan()
    bench.work(plan, sampler=failing(seeds_of(bench, 2, 5)))
    assert len(bench.plan().segments) == 1
    again = bench.plan(retry=quarantined)
    assert again.segments[1].ids == ["mouse-002", "mouse-005"]
    state = status(plan.folder)
    assert (state.samples, state.done, state.quarantined, state.missing) == (10, 8, 0, 2)
    assert len(bench.plan(retry=quarantined).segments) == 2
    assert bench.work(again, "w1", sampler=failing(seeds_of(bench, 5))) == "done"
    state = status(plan.folder)
    assert (state.samples, state.done, state.reasons.keys()) == (10, 9, {"mouse-005"})
    assert len(ResultStore(plan.folder)) == 9


def test_a_sampler_that_always_fails_stops_its_worker_and_quarantines_nothing(bench, calm):
    def broken(images, seeds):
        raise RuntimeError("no device")

    plan = bench.plan()
    with pytest.raises(SamplerBroken, match="4 samples in a row failed, the last with RuntimeError: no device"):
        bench.work(plan, sampler=broken)
    state = status(plan.folder)
    assert (state.missing, state.quarantined, state.running) == (10, 0, 0)
    assert bench.work(plan, "w1") == "done"
    assert bench.hashes(plan.folder) == calm
    assert status(plan.folder).quarantined == 0


def test_out_of_memory_halves_the_batch_and_loses_nothing(bench, calm, sampler, capsys):
    calls = []

    def small(images, seeds):
        calls.append(len(seeds))
        if len(seeds) > 1:
            raise MemoryError
        return sampler(images, seeds)

    plan = bench.plan()
    assert bench.work(plan, sampler=small) == "done"
    assert bench.hashes(plan.folder) == calm
    assert calls == [2] + [1] * 10, "it is tried once, not with every batch"
    assert [line["length"] for line in read_ledger(plan.folder) if line["kind"] == "halved"] == [1]
    assert "from here on generate.batch=1" in capsys.readouterr().err


def test_output_of_the_wrong_shape_is_a_failure_of_the_sampler(bench, sampler):
    with pytest.raises(SamplerBroken, match=r"returned uint8 \[2, 6, 8, 16, 3\] for 2 samples of size 16"):
        bench.work(bench.plan(), sampler=lambda images, seeds: sampler(images, seeds)[:, :, :8])


def harm_flip(bench, read_input):
    path = bench.data / "a.h5"
    content = path.read_bytes()
    place = content.index(read_input("mouse-003").views.tobytes()[:200])
    path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])


def harm_change(bench, read_input):
    bench.change_data("a.h5", "mouse-003")


def harm_cut(bench, read_input):
    path = bench.data / "a.h5"
    path.write_bytes(path.read_bytes()[:-5000])


def harm_remove(bench, read_input):
    (bench.data / "a.h5").unlink()


@pytest.mark.parametrize(
    ("harm", "lost", "reason"),
    [
        (harm_flip, [3], "mouse-003"),
        (harm_change, [3], "not the mouse-003 that was planned"),
        (harm_cut, range(6), "a.h5"),
        (harm_remove, range(6), "a.h5"),
    ],
)
def test_input_that_cannot_be_read_costs_what_cannot_be_read(bench, read_input, harm, lost, reason):
    plan = bench.plan()
    harm(bench, read_input)
    assert bench.work(plan) == "done"
    state = status(plan.folder)
    assert sorted(state.reasons) == [f"mouse-{k:03d}" for k in lost]
    assert all(reason in why for why in state.reasons.values())
    assert state.done == 10 - len(lost)

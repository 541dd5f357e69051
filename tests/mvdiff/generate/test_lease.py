import os
import subprocess
import sys
from dataclasses import replace

import pytest

from mvdiff.generate.lease import Heartbeat, LeaseBook
from mvdiff.generate.owner import Owner


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def book(tmp_path, clock):
    """Make the lease book of a worker on this machine, or elsewhere."""

    def make(worker, elsewhere=False):
        owner = Owner.here(worker)
        return LeaseBook(tmp_path, replace(owner, machine="elsewhere") if elsewhere else owner, 60.0, clock)

    return make


def test_a_slice_has_one_holder(book):
    first, second = book("a"), book("b")
    lease = first.claim("s")
    assert lease is not None and lease.held()
    assert second.claim("s") is None
    assert first.claim("s") is None
    assert second.claim("t") is not None


def test_a_released_slice_is_taken_at_once_with_the_next_attempt(book):
    lease = book("a").claim("s")
    lease.end("released")
    taken = book("b").claim("s")
    assert (lease.attempt, taken.attempt) == (1, 2)
    assert not lease.held()


def test_a_silent_holder_loses_its_lease_by_the_observers_clock(book, clock):
    lease, observer = book("a").claim("s"), book("b")
    assert observer.claim("s") is None
    clock.now += 59.9
    assert observer.claim("s") is None
    clock.now += 0.2
    taken = observer.claim("s")
    assert taken.attempt == 2
    assert taken.held() and not lease.held()


def test_a_heartbeat_starts_the_observers_clock_anew(book, clock):
    lease, observer = book("a").claim("s"), book("b")
    for _ in range(5):
        assert observer.claim("s") is None
        clock.now += 59.0
        lease.beat()
    assert observer.claim("s") is None
    clock.now += 59.9
    assert observer.claim("s") is None


def test_one_look_long_after_the_last_heartbeat_is_not_enough(book, clock):
    book("a").claim("s")
    clock.now += 10_000
    assert book("b").claim("s") is None


def test_of_two_observers_one_takes_over(book, clock):
    book("a").claim("s")
    observers = [book("b"), book("c")]
    assert [observer.claim("s") for observer in observers] == [None, None]
    clock.now += 61
    leases = [observer.claim("s") for observer in observers]
    assert [lease is None for lease in leases] == [False, True]


def test_a_zombie_neither_beats_nor_ends_a_lease_it_lost(book, clock, tmp_path):
    zombie, observer = book("a").claim("s"), book("b")
    observer.claim("s")
    clock.now += 61
    assert observer.claim("s") is not None
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    zombie.beat()
    zombie.end("released")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_lease_torn_by_a_power_cut_goes_stale(book, clock, tmp_path):
    (tmp_path / "s.1").write_bytes(b"")
    observer = book("b")
    assert observer.claim("s") is None
    clock.now += 61
    assert observer.claim("s").attempt == 2


def test_a_holder_that_died_on_this_machine_is_found_out_at_once(book, tmp_path):
    child = os.fork()
    if not child:
        os._exit(0 if book("a").claim("s") else 1)
    observer = book("b")
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert observer.holder("s") is None
    assert os.waitpid(child, 0)[1] == 0
    assert observer.claim("s").attempt == 2


def test_a_process_id_says_nothing_about_another_machine(book):
    child = os.fork()
    if not child:
        os._exit(0 if book("a", elsewhere=True).claim("s") else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert book("b").claim("s") is None


def test_a_process_id_used_again_is_not_the_holder():
    here = Owner.here("a")
    assert not here.knows_dead(here.to_json())
    assert here.knows_dead({**here.to_json(), "started": here.started - 1})
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert here.knows_dead({**here.to_json(), "pid": other.pid})
        other.stdin.close()


def test_the_heartbeat_thread_keeps_a_lease_alive_until_the_block_ends(book, clock, tmp_path):
    lease, observer = book("a").claim("s"), book("b")
    with Heartbeat(lease, 0.001):
        for _ in range(3):
            before = (tmp_path / "s.1").read_bytes()
            while (tmp_path / "s.1").read_bytes() == before:
                assert observer.claim("s") is None
    assert observer.claim("s") is None
    clock.now += 61
    assert observer.claim("s") is not None


def test_a_heartbeat_that_cannot_be_written_does_not_stop_the_work(book, tmp_path):
    lease = book("a").claim("s")
    tmp_path.joinpath("s.1").unlink()
    tmp_path.rename(tmp_path.with_name("away"))
    try:
        with Heartbeat(lease, 0.001) as heartbeat:
            heartbeat._thread.join(0.02)
            assert heartbeat._thread.is_alive()
        lease.end("released")
    finally:
        tmp_path.with_name("away").rename(tmp_path)

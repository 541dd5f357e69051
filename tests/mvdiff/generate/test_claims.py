"""Which slice comes next, with clocks under the test's hand."""

from dataclasses import replace

import pytest

from mvdiff.generate.claims import Claims
from mvdiff.generate.lease import LeaseBook
from mvdiff.generate.owner import Owner
from mvdiff.generate.suspects import Failure, Suspects

LEASE_S, PATIENCE_S = 60.0, 5.0


@pytest.fixture
def crew(bench):
    """Make workers of the plan, each on a host of its own, all of them looking at one clock."""
    plan = bench.plan()
    now = [0.0]

    def worker(name, host, only_host=False):
        owner = replace(Owner.here(name, host), machine=host)
        leases = LeaseBook(plan.folder / "leases", owner, LEASE_S, lambda: now[0])
        return Claims(
            plan, leases, owner, lease_seconds=LEASE_S, patience=PATIENCE_S, only_host=only_host,
            on_published=lambda name: None, clock=lambda: now[0],
        )  # fmt: skip

    worker.now, worker.plan = now, plan
    return worker


def names(*claims):
    return sorted(claim.lease.name for claim in claims if claim)


def test_no_slice_is_given_to_two_until_nothing_else_is_left(crew):
    a, b = crew("a", "node-a"), crew("b", "node-b")
    assert names(a.next(), b.next(), a.next()) == [f"0000-{k:06d}" for k in range(3)]
    assert a.next() is None and b.next() is None
    crew.now[0] += PATIENCE_S
    twins = names(a.next(), b.next(), b.next())
    assert len(twins) == 2 and all(name.endswith("~") for name in twins)
    crew.now[0] += PATIENCE_S
    twins += names(a.next(), b.next())
    assert sorted(twins) == [f"0000-{k:06d}~" for k in range(3)]
    crew.now[0] += PATIENCE_S
    assert a.next() is None and b.next() is None, "nothing is handed out three times"


def test_a_worker_is_no_twin_of_itself(crew):
    a = crew("a", "node-a")
    claims = [a.next() for _ in range(3)]
    crew.now[0] += 10 * LEASE_S
    assert a.next() is None
    claims[0].lease.end("released")
    a.put_back(claims[0])
    assert a.next().lease.name == claims[0].lease.name


def test_a_slice_left_to_its_twin_is_not_claimed_again_while_that_is_worked_on(crew):
    a, b = crew("a", "node-a"), crew("b", "node-b")
    mine = [a.next() for _ in range(3)]
    assert b.next() is None
    crew.now[0] += PATIENCE_S
    twin = b.next()
    [left] = [claim for claim in mine if a.has_twin(claim)]
    assert twin.lease.name == left.lease.name + "~"
    a.leave(left)
    left.lease.end("released")
    a.put_back(left)
    assert [a.next() for _ in range(3)] == [None] * 3
    twin.lease.end("released")
    assert a.next().lease.name == left.lease.name, "its twin was given up"


def test_a_slice_left_to_a_twin_that_falls_silent_is_claimed_again(crew):
    a, b = crew("a", "node-a"), crew("b", "node-b")
    mine = [a.next() for _ in range(3)]
    b.next()
    crew.now[0] += PATIENCE_S
    b.next()
    [left] = [claim for claim in mine if a.has_twin(claim)]
    a.leave(left)
    left.lease.end("released")
    a.put_back(left)
    assert a.next() is None
    crew.now[0] += LEASE_S
    assert a.next().lease.name == left.lease.name


def test_a_silent_holder_loses_its_slice(crew):
    a, b = crew("a", "node-a"), crew("b", "node-b")
    gone = [a.next() for _ in range(3)]
    assert b.next() is None
    crew.now[0] += LEASE_S
    found = b.next()
    assert found.lease.name in names(*gone) and found.lease.attempt == 2


def test_a_slice_with_a_suspect_goes_to_another_host(crew):
    a, b = crew("a", "node-a"), crew("b", "node-b")
    mine = a.next()
    Suspects(crew.plan.folder, mine.lease.owner).add(mine.lease.name, {"mouse-001": Failure("sampler", "no good")})
    mine.lease.end("released")
    a.put_back(mine)
    assert mine.lease.name not in names(a.next(), a.next(), a.next())
    found = b.next()
    assert found.lease.name == mine.lease.name and found.failed_elsewhere == {"mouse-001"}


def test_without_another_host_a_suspect_is_tried_again_here_after_a_while(crew):
    a, b = crew("a", "node-a"), crew("b", "node-b")
    held = b.next()
    mine = a.next()
    Suspects(crew.plan.folder, mine.lease.owner).add(mine.lease.name, {"mouse-001": Failure("sampler", "no good")})
    mine.lease.end("released")
    a.put_back(mine)
    a.next()
    for _ in range(4):
        crew.now[0] += LEASE_S / 2
        held.lease.beat()
        found = a.next()
        assert found is None or found.lease.name != mine.lease.name, "node-b is alive, and will come to it"
    crew.now[0] += LEASE_S
    seen = []
    for _ in range(6):
        found = a.next()
        seen += [found] if found else []
        crew.now[0] += LEASE_S / 2
    again = next(claim for claim in seen if claim.lease.name == mine.lease.name)
    assert again.failed_elsewhere == {"mouse-001"}, "a second failure here is enough then"


def test_on_the_only_host_nothing_is_waited_for(crew):
    a = crew("a", "node-a", only_host=True)
    mine = a.next()
    Suspects(crew.plan.folder, mine.lease.owner).add(mine.lease.name, {"mouse-001": Failure("sampler", "no good")})
    mine.lease.end("released")
    a.put_back(mine)
    rest = names(a.next(), a.next())
    assert mine.lease.name not in rest and len(rest) == 2, "it comes last"
    assert a.next().lease.name == mine.lease.name

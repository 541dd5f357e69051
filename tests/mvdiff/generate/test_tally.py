"""What a glance counts is what a full reading counts."""

from mvdiff.generate import status
from mvdiff.generate.status import quarantined
from mvdiff.generate.tally import tally
from tests.mvdiff.generate.workers import seeds_of


def same(folder) -> bool:
    glance, full = tally(folder), status(folder)
    assert (glance.samples, glance.done, glance.quarantined) == (full.samples, full.done, full.quarantined)
    assert glance.left == full.running + full.missing
    return glance.finished == full.finished


def test_before_while_and_after_with_what_was_left_out_and_made_again(bench, failing):
    plan = bench.plan(limit=6)
    bad = failing(seeds_of(bench, 3, 5))
    assert same(plan.folder)
    assert bench.work_one_batch(plan, sampler=bad) == "stopped"
    assert same(plan.folder)
    assert bench.work(plan, sampler=bad) == "done"
    assert same(plan.folder)
    assert tally(plan.folder).line() == "4 of 6 samples done (67%), 2 quarantined"
    plan = bench.plan(retry=quarantined)
    assert same(plan.folder)
    assert bench.work(plan) == "done"
    assert same(plan.folder)
    assert tally(plan.folder).line() == "10 of 10 samples done (100%)"


def test_what_is_no_result_set_is_not_counted(tmp_path):
    assert tally(tmp_path) is None
    (tmp_path / "plan-0000.json").write_text("torn")
    assert tally(tmp_path) is None

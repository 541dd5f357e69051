"""How far training is, from event logs alone."""

from mvdiff.events import read_events
from mvdiff.train.status import status
from tests.mvdiff.train.conftest import write_shard


def test_a_run_is_told_as_it_stands(run, settings, tmp_path):
    run.held_out = write_shard(tmp_path / "held_out.h5", range(20, 24))
    plan = settings(steps=6, validation={"every": 3, "samples": 2, "batch": 2, "steps": 2})
    run.train(plan, stop_at=6)
    now = status(read_events(run.events))
    assert (now.step, now.steps, now.saved, now.end) == (4, 6, 4, None)
    assert now.lines()[0].startswith("step 4/6  loss 0.") and "data wait" in now.lines()[0]
    assert any(line.startswith("validation at step 3/6") for line in now.lines())
    run.train(plan)
    now = status(read_events(run.events))
    assert (now.step, now.saved) == (6, 6) and now.lines()[-1] == "done: all 6 steps are done"


def test_what_is_wrong_is_told_and_forgotten_at_the_next_start():
    events = [
        {"time": 1, "kind": "task started", "rank": 0},
        {"time": 2, "kind": "validated", "line": "validation at step 50", "remarks": ["colours drift"]},
        {"time": 3, "kind": "task failed", "rank": 1, "error": "CUDA error"},
        {"time": 4, "kind": "task failed", "rank": 0, "error": "connection closed by peer"},
    ]
    assert status(events).lines() == ["validation at step 50", "colours drift", "failed: CUDA error"]
    again = status([*events, {"time": 5, "kind": "task started", "rank": 0}])
    assert again.lines() == ["validation at step 50", "colours drift"] and again.starts == 2


def test_nothing_yet_is_nothing():
    assert status([]).lines() == []

from mvdiff.events import EventLog
from mvdiff.train.pace import MINUTE, Pace, measured


def test_a_stop_needs_a_step_a_save_that_may_be_under_way_the_last_save_and_a_minute():
    pace = Pace()
    assert pace.needed() == MINUTE
    for seconds in (2.0, 1.0):
        pace.stepped(seconds)
        pace.saved(10 * seconds)
    assert pace.needed() == 2 + 2 * 20 + MINUTE
    assert pace.needed(spare=5) == 47


def test_the_pace_of_earlier_jobs_is_read_from_their_logs(tmp_path):
    assert measured([tmp_path / "none"]) is None
    for number, seconds in enumerate((3.0, 4.0)):
        log = EventLog(tmp_path / str(number) / "rank-0.jsonl")
        log.write("step", longest=0.5 / (number + 1))
        assert number or measured([tmp_path / "0"]) is None
        log.write("checkpoint", seconds=seconds)
    pace = measured([tmp_path / "0", tmp_path / "1"])
    assert (pace.step, pace.save) == (0.5, 4.0)

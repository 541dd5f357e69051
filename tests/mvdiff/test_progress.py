"""Progress in a log file: plain lines, not too many, none for what is over at once."""

import io

from mvdiff.progress import Progress, duration


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(seconds_a_sample: float, total: int) -> list[str]:
    clock, log = Clock(), io.StringIO()
    with Progress("mice", total, every=10, stream=log, clock=clock) as progress:
        for _ in range(total):
            clock.now += seconds_a_sample
            progress.advance()
    return log.getvalue().splitlines()


def test_a_line_every_ten_seconds_with_rate_and_time_left_and_one_at_the_end():
    shown = lines(2.0, 12)
    assert shown[0] == "mice: 5/12 samples  0.50/s  ETA 14s"
    assert shown[-1] == "mice: 12/12 samples  0.50/s  took 24s"
    assert len(shown) == 3


def test_brief_work_says_nothing():
    assert lines(0.001, 12) == []


def test_durations_read_like_a_clock():
    assert [duration(s) for s in (0.4, 59.6, 61, 3599, 7260)] == ["0s", "1m00s", "1m01s", "59m59s", "2h01m"]

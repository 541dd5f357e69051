"""When a worker comes back no more."""

import pytest

from mvdiff.errors import InputError
from mvdiff.generate.starts import ALLOWED, PROGRESSED, refuse_futile

START, STOPPED = {"kind": "task started"}, {"kind": "task stopped"}
OVERDUE = {"kind": "task overdue", "reason": "no boundary was reached"}


def events(*those):
    return [{"time": k, **event} for k, event in enumerate(those)]


def test_a_few_starts_in_a_row_that_wrote_nothing_are_the_last():
    starts = [START, OVERDUE, START, START, {"kind": "task failed", "error": "no device"}]
    refuse_futile(events(*starts))
    with pytest.raises(
        InputError, match=r"3 starts of this worker wrote nothing \(no boundary .*; killed .*; no device"
    ):
        refuse_futile(events(*starts, START))


@pytest.mark.parametrize("good", [{"kind": PROGRESSED}, STOPPED, {"kind": "stopped"}])
def test_a_start_that_wrote_rows_or_was_asked_to_stop_counts_for_nothing(good):
    refuse_futile(events(*[START] * ALLOWED, good, *[START] * ALLOWED))
    refuse_futile(events(*[START, OVERDUE, START, {"kind": PROGRESSED}] * 20, START))

"""Starts that come to nothing are counted from what the event logs say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvdiff.errors import InputError
from mvdiff.train.attempts import refuse_futile

START = [{"kind": "task started", "rank": 0}, {"kind": "task started", "rank": 1}]
KILLED = [*START, {"kind": "resumed", "step": 40}]
STOPPED = [*KILLED, {"kind": "task stopped", "rank": 0, "signal": "SIGUSR2"}]
FAILED = [*KILLED, {"kind": "task failed", "rank": 1, "error": "CUDA error"}]
GOOD = [*KILLED, {"kind": "checkpoint", "step": 60}]
NEW = [*START, {"kind": "started"}, {"kind": "checkpoint", "step": 0}]
NOW = START


def told(*starts):
    return [{"time": time, **event} for time, event in enumerate(event for start in starts for event in start)]


def test_three_starts_without_progress_end_the_run_with_their_reasons():
    with pytest.raises(InputError) as caught:
        refuse_futile(told(GOOD, KILLED, STOPPED, FAILED, NOW))
    message = str(caught.value)
    assert "the last 3 starts saved nothing new" in message and "\n" not in message
    assert "killed without a word; stopped by SIGUSR2 before it could save; CUDA error" in message


@pytest.mark.parametrize(
    "starts",
    [
        [NOW],
        [NEW, NOW],
        [KILLED, KILLED, NOW],
        [KILLED, KILLED, GOOD, NOW],
        [GOOD, KILLED, STOPPED, NOW],
        [GOOD, KILLED, STOPPED, [*START, {"kind": "resumed", "step": 61}], NOW],
    ],
)
def test_fewer_are_free(starts):
    refuse_futile(told(*starts))


def test_a_checkpoint_whose_writer_was_killed_before_it_could_tell_is_progress():
    refuse_futile(told(KILLED, KILLED, KILLED, [*START, {"kind": "resumed", "step": 55}]))


def test_making_a_new_model_again_and_again_is_none():
    with pytest.raises(InputError):
        refuse_futile(told(NEW, *[[*START, {"kind": "resumed", "step": 0}]] * 2, NOW))


@given(st.lists(st.sampled_from([KILLED, STOPPED, FAILED, GOOD]), max_size=12))
def test_it_is_refused_exactly_when_the_last_three_starts_brought_nothing(starts):
    progress = [start is GOOD for start in starts]
    futile = len(progress) >= 3 and not any(progress[-3:])
    if futile:
        with pytest.raises(InputError):
            refuse_futile(told(*starts, NOW))
    else:
        refuse_futile(told(*starts, NOW))

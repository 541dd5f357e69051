"""Writing behind: in order, errors told, a full disk waited for."""

import errno
import threading

import pytest

from mvdiff.errors import InputError
from mvdiff.generate.scribe import Scribe


def scribe(patience=30.0, should_stop=lambda: False, on_full=lambda error: None):
    return Scribe("scribe", patience=patience, pause=0.01, should_stop=should_stop, on_full=on_full)


def full():
    error = InputError("it cannot be written", "make room")
    error.__cause__ = OSError(errno.ENOSPC, "no space left")
    return error


def test_tasks_are_done_in_order_and_one_is_open_at_most():
    done, go = [], threading.Event()
    with scribe() as behind:
        behind.do(lambda: (go.wait(10), done.append(0)))
        second = threading.Thread(target=lambda: behind.do(lambda: done.append(1)))
        second.start()
        assert done == [] and second.is_alive()
        go.set()
        second.join()
    assert done == [0, 1]


def test_all_tasks_of_a_call_are_taken_at_once_and_the_next_call_waits_for_them():
    done, go = [], threading.Event()
    with scribe() as behind:
        behind.do(lambda: (go.wait(10), done.append(0)), lambda: done.append(1))
        assert done == []
        go.set()
        behind.do(lambda: done.append(2))
    assert done == [0, 1, 2]


def test_the_first_error_is_told_and_what_must_be_done_is_done():
    done = []

    def fail():
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"), scribe() as behind:
        behind.do(fail)
        behind.do(lambda: done.append("released"), always=True)
        behind.do(lambda: done.append("never"))
    assert done == ["released"]


def test_a_full_disk_is_waited_for_and_told_once():
    told, tries = [], []

    def write():
        tries.append(1)
        if len(tries) < 4:
            raise full()

    with scribe(on_full=told.append) as behind:
        behind.do(write)
    assert len(tries) == 4 and len(told) == 1


def test_a_disk_that_stays_full_is_told():
    def write():
        raise full()

    with pytest.raises(InputError, match="cannot be written"), scribe(patience=0.05) as behind:
        behind.do(write)


def test_a_stop_does_not_wait_for_room():
    done = []

    def write():
        raise full()

    with scribe(should_stop=lambda: True) as behind:
        behind.do(write)
        behind.do(lambda: done.append("rows"))
        behind.do(lambda: done.append("released"), always=True)
    assert done == ["released"]

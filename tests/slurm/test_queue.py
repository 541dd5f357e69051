"""Reading what SLURM's commands print."""

import math

import pytest

from slurm.queue import seconds


@pytest.mark.parametrize(
    ("written", "expected"),
    [("00:00:05", 5), ("02:03:04", 7384), ("1-00:00:00", 86400), ("10-01:00:01", 867601), ("UNLIMITED", math.inf),
     ("Partition_Limit", math.inf), ("0", 0)],
)  # fmt: skip
def test_time_spans(written, expected):
    assert seconds(written) == expected

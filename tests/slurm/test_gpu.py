"""Which GPU a process takes of those that its task sees."""

import os

import pytest

from slurm.gpu import take_own
from slurm.place import Place


def place(local_rank: int) -> Place:
    return Place("slurm", "1", 4 + local_rank, 8, local_rank, "n2", "127.0.0.1", 0)


@pytest.mark.parametrize(
    ("given", "rank", "taken"),
    [
        ("0,1,2,3", 2, "2"),
        ("5,7", 1, "7"),
        # bound to one already, as --gpus-per-task does it
        ("3", 1, "3"),
        ("GPU-270833b4,GPU-ca355213", 0, "GPU-270833b4"),
        ("", 1, ""),
    ],
)
def test_a_process_takes_the_gpu_of_its_rank_on_the_node(monkeypatch, given, rank, taken):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    take_own(place(rank))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == taken


def test_a_process_that_was_told_of_no_gpus_sees_all(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    take_own(place(1))
    assert "CUDA_VISIBLE_DEVICES" not in os.environ

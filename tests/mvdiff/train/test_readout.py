import torch

from mvdiff.train.readout import Readout


def test_a_readout_is_of_the_moment_it_was_made():
    numbers = torch.tensor([1.0, 2.0], dtype=torch.float64)
    readout = Readout(numbers)
    numbers.zero_()
    assert readout.numbers().tolist() == [1.0, 2.0]

"""Which of its job's GPUs a process works on."""

import os

from slurm.place import Place

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def take_own(place: Place) -> None:
    """Let this process see one GPU of those that its task was given, by its rank on the node; to be called before CUDA
    is used.

    Every process then calls its GPU the first one. Kernels compiled for the second one are others, and one rank could
    not use what another has compiled.
    """
    given = [name for name in os.environ.get(_VISIBLE, "").split(",") if name]
    if len(given) > 1:
        os.environ[_VISIBLE] = given[place.local_rank % len(given)]

"""Calls of the sampler that do not trust it: out of memory halves the batch, a sample that fails is found by halves.

A batch is always called with the length it was planned with. Where a place is not wanted (its input is unreadable, its
row is there already, its neighbour is to be tried without it), another sample stands in for it. So the arithmetic of
every sample is that of the undisturbed batch, to the last bit, whatever happened to its neighbours. Only a batch that
was halved for memory is called with fewer.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Sampler = Callable[[NDArray[np.uint8], list[int]], NDArray[np.uint8]]
"""``sampler(images uint8[B H W 3], seeds)`` -> uint8[B 6 size size 3]. View ``k`` is seen by the rig's ``k``-th
camera, ``images`` by the reference view's. What a sample becomes depends on its own image and seed alone."""


class DeviceLost(Exception):
    """The sampler's device takes no more calls in this process."""


class Trial:
    """Samples batches with ``sampler``.

    Args:
        size: height and width of the views in pixels; anything else that is returned is a failure.
        on_halved: told the new length of a call when memory ran out.
    """

    def __init__(self, sampler: Sampler, size: int, on_halved: Callable[[int, Exception], None]) -> None:
        self._sampler, self._size, self._on_halved = sampler, size, on_halved
        self._most: int | None = None

    def __call__(
        self, images: Sequence[NDArray[np.uint8] | None], seeds: Sequence[int], wanted: Sequence[int]
    ) -> tuple[dict[int, NDArray[np.uint8]], dict[int, Exception]]:
        """Make the places ``wanted`` of one batch, at least one; the others' images may be None.

        Returns:
            views uint8 [6 size size 3] by place, and what the sampler raised for the places that fail alone.

        Raises:
            DeviceLost: nothing more can be sampled in this process.
        """
        failure: Exception | None = None
        try:
            return self._call(images, seeds, wanted), {}
        except DeviceLost:
            raise
        except Exception as error:
            failure = error.with_traceback(error.__traceback__)
            if len(wanted) == 1:
                return {}, {wanted[0]: failure}
        # Out here, where nothing holds the failed call's frames and their memory any more.
        del failure
        half = len(wanted) // 2
        first, second = self(images, seeds, wanted[:half]), self(images, seeds, wanted[half:])
        return first[0] | second[0], first[1] | second[1]

    def _call(
        self, images: Sequence[NDArray[np.uint8] | None], seeds: Sequence[int], wanted: Sequence[int]
    ) -> dict[int, NDArray[np.uint8]]:
        stand_in = wanted[0]
        places = [k if k in wanted else stand_in for k in range(len(images))]
        made: dict[int, NDArray[np.uint8]] = {}
        while todo := [k for k in wanted if k not in made]:
            length = min(self._most or len(images), len(images))
            begin = todo[0] // length * length
            part = places[begin : begin + length]
            pictures = np.stack([picture for k in part if (picture := images[k]) is not None])
            try:
                views = self._sampler(pictures, [seeds[k] for k in part])
                self._check(views, len(part))
            except Exception as error:
                if not _is_out_of_memory(error):
                    if _device_is_lost(error):
                        raise DeviceLost(f"{type(error).__name__}: {error}") from error
                    raise
                if len(part) == 1:
                    raise
                self._most = length // 2
                self._on_halved(self._most, error)
                continue
            made |= {k: views[k - begin] for k in todo if begin <= k < begin + length}
        return made

    def _check(self, views: NDArray[np.uint8], count: int) -> None:
        if views.dtype != np.uint8 or views.shape != (count, 6, self._size, self._size, 3):
            raise ValueError(
                f"the sampler returned {views.dtype} {list(views.shape)} for {count} samples of size {self._size}"
            )


def _is_out_of_memory(error: Exception) -> bool:
    """By name, since the sampler's library is not imported here; cuBLAS has an error of its own for it."""
    names = {kind.__name__ for kind in type(error).__mro__}
    told = str(error)
    return (
        bool(names & {"OutOfMemoryError", "MemoryError"})
        or "CUBLAS_STATUS_ALLOC_FAILED" in told
        or told.startswith("CUDA error: out of memory")
    )


def _device_is_lost(error: Exception) -> bool:
    """An error of the device itself (illegal access, ECC, fell off the bus) ends its context: every call fails then."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return "AcceleratorError" in names or (isinstance(error, RuntimeError) and str(error).startswith("CUDA error"))

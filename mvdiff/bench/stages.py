"""Where the time of a loop goes: marks between stages, on the GPU's clock where there is one."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stages:
    """Adds up the seconds of named stages that follow one another without a gap.

    On a GPU marks are events in its stream: a stage that only waits for the GPU counts nothing, the GPU's idle time
    counts for the stage in which it idles.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str | None, float | torch.cuda.Event]] = []
        self.mark(None)

    def mark(self, name: str | None) -> None:
        """What has happened since the last mark was the stage ``name``; None: it counts for none."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((name, event))
        else:
            self._marks.append((name, time.perf_counter()))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The block is the stage ``name``."""
        yield
        self.mark(name)

    def seconds(self) -> dict[str, float]:
        """Of each stage, in order of first appearance."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        found: dict[str, float] = {}
        for (_, before), (name, after) in zip(self._marks, self._marks[1:], strict=False):
            if name is None:
                continue
            if isinstance(before, torch.cuda.Event) and isinstance(after, torch.cuda.Event):
                took = before.elapsed_time(after) / 1000
            else:
                assert isinstance(before, float) and isinstance(after, float)
                took = after - before
            found[name] = found.get(name, 0.0) + took
        return found

    def shares(self) -> dict[str, float]:
        """Of each stage in the time of all."""
        found = self.seconds()
        total = sum(found.values())
        return {name: took / total for name, took in found.items()}

"""Input samples as the plan names them."""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvdiff.errors import InputError
from mvdiff.shard import Sample, ShardReader

OPEN_SHARDS = 8


class Unreadable(Exception):
    """An input row that is not there, not whole, or not the one that was planned."""


@dataclass(frozen=True)
class Input:
    """What a sampler needs of a sample, and what its result keeps of it."""

    image: NDArray[np.uint8]
    """uint8 [H W 3]: the view that is the model's input."""
    sample_id: str
    recording: str
    w2c: NDArray[np.float32]
    intrinsics: NDArray[np.float32]
    azimuth: NDArray[np.float32]
    elevation: NDArray[np.float32]

    def result(self, generated: NDArray[np.uint8]) -> Sample:
        """The generated views uint8 [6 H W 3] as a sample seen by the input's cameras, whatever its size was."""
        scale = np.array([generated.shape[1] / self.image.shape[0]] * 2 + [1.0], np.float32)
        return Sample(
            self.sample_id, self.recording, generated, None,
            self.w2c, self.intrinsics * scale[:, None], self.azimuth, self.elevation,
        )  # fmt: skip


class InputReader:
    """Reads view ``view`` of planned rows and keeps the last few shards open."""

    def __init__(self, view: int) -> None:
        self._view = view
        self._readers: OrderedDict[Path, ShardReader] = OrderedDict()

    def read(self, shard: Path, row: int, sample_id: str, checksum: int) -> Input:
        """The sample in ``row`` of ``shard``; ``Unreadable`` unless it is whole and the one planned."""
        if shard not in self._readers:
            self._readers[shard] = ShardReader(shard)
            if len(self._readers) > OPEN_SHARDS:
                self._readers.popitem(last=False)[1].close()
        self._readers.move_to_end(shard)
        reader = self._readers[shard]
        try:
            sample = reader.sample(row)
            planned = (sample.sample_id, reader.checksum(row)) == (sample_id, checksum)
        except InputError as error:
            raise Unreadable(error.what) from error
        except (OSError, LookupError, RuntimeError, ValueError) as error:
            raise Unreadable(f"{shard} row {row}: {error}") from error
        if not planned:
            raise Unreadable(f"{shard} row {row} is not the {sample_id} that was planned")
        # A copy, so that the memory of all views serves the next row at once: fresh memory costs more than decoding.
        return Input(
            sample.views[self._view].copy(), sample.sample_id, sample.recording,
            sample.w2c, sample.intrinsics, sample.azimuth, sample.elevation,
        )  # fmt: skip

    def close(self) -> None:
        """Close the shards."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

"""One worker's attempt at one slice: its rows on their way, and their publication.

The rows lie in ``attempts/SLICE.ATTEMPT/``, written by this attempt alone. An attempt begins with a copy of what an
earlier one left there; a copy, since that one's worker may still be alive, only slow: two writers never share a file.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mvdiff.durable import disk_is_full, link_new, sync_folder
from mvdiff.errors import InputError
from mvdiff.generate.lease import TWIN, Lease
from mvdiff.generate.plan import Slice
from mvdiff.generate.settings import Recipe
from mvdiff.shard import CorruptRow, Sample, ShardReader, ShardWriter, verify_shard

FOLDER = "attempts"
DAMAGED = "damaged"
"""In an attempt's folder: a shard that was published once and is damaged, for its good rows. No .h5, which readers
look for."""
_SHARD, _JOURNAL = "result", ".result.part"


class Lost(Exception):
    """Another worker has taken the slice over, or has published it."""


class Attempt:
    """The slice ``part`` of the result set ``folder``, held by ``lease``, from which rows are still missing."""

    def __init__(self, folder: Path, part: Slice, lease: Lease, recipe: Recipe) -> None:
        self.part, self.lease = part, lease
        self.lost = False
        """Whether there is no use in going on."""
        self._folder, self._recipe = folder, recipe
        self._path = folder / FOLDER / f"{lease.name}.{lease.attempt}"
        self._shard = self._path / _SHARD
        self._journal = self._path / _JOURNAL
        self._writer: ShardWriter | None = None

    def missing(self) -> list[int]:
        """Places in the slice that have no row yet."""
        present = set(self._writer.ids()) if self._writer else set(self._published_ids())
        return [place for place, sample_id in enumerate(self.part.ids) if sample_id not in present]

    @property
    def complete(self) -> bool:
        """Whether a finished shard waits for its public name alone."""
        return self._writer is None

    def append(self, samples: Sequence[Sample]) -> None:
        """Add rows, in whatever order; they survive the death of this process once the call returns."""
        assert self._writer is not None
        there = set(self._writer.ids())
        for sample in samples:
            if sample.sample_id not in there:
                self._writer.append(sample)
        self.lease.done = self._writer.rows

    def publish(self) -> list[str]:
        """Make the shard in the order of the slice and give it its public name; returns the ids in it.

        Raises:
            Lost: another worker's shard has that name, or the slice.
        """
        if self._writer is not None:
            present = self._writer.ids()
            self._writer.publish(self.part.ids)
            self._writer.close()
            self._writer = None
        else:
            present = self._published_ids()
        if not self.lease.held() or not link_new(self._shard, self._folder / self.part.file_name):
            raise Lost
        sync_folder(self._folder)
        return present

    def close(self) -> None:
        """Let go of the files; the rows wait for the next attempt."""
        if self._writer is not None:
            self._writer.close()

    def clear(self) -> None:
        """Delete what all attempts at this slice left: it is published."""
        for path in _attempts(self._folder, self.part.name):
            shutil.rmtree(path, ignore_errors=True)

    def _published_ids(self) -> list[str]:
        with ShardReader(self._shard) as reader:
            return reader.ids()

    def adopt(self) -> None:
        """Open this attempt's files, with the rows that earlier attempts left; to be called first."""
        others = [path for path in _attempts(self._folder, self.part.name) if path != self._path]
        self._path.mkdir(parents=True, exist_ok=True)
        for source in sorted(others, key=_bytes_in, reverse=True):
            # Its writer may rename files while they are copied: what cannot be copied whole is made again.
            with suppress(OSError):
                name = _SHARD if (source / _SHARD).exists() else _JOURNAL
                shutil.copyfile(source / name, self._path / f"{name}.copy")
                (self._path / f"{name}.copy").rename(self._path / name)
                break
        if self._shard.exists() and not verify_shard(self._shard):
            return
        self._shard.unlink(missing_ok=True)
        try:
            self._writer = self._opened()
        except InputError as error:
            if disk_is_full(error):
                raise
            # What another version or setting left is of no use here.
            self._journal.unlink(missing_ok=True)
            self._writer = self._opened()
        if not set(self._writer.ids()) <= set(self.part.ids):
            self._writer.discard()
            self._writer = self._opened()
        for source in others:
            if (source / DAMAGED).exists():
                self.append(_good_rows(source / DAMAGED, set(self.part.ids)))
        for source in others:
            # All but the newest are superseded; that one's worker may still look for its files.
            name, _, number = source.name.rpartition(".")
            if name == self.lease.name and int(number) < self.lease.attempt - 1:
                shutil.rmtree(source, ignore_errors=True)

    def _opened(self) -> ShardWriter:
        return ShardWriter(
            self._shard, size=self._recipe.size, rig=self._recipe.rig, codec=self.part.codec, with_alpha=False,
            attributes=self._recipe.attributes(),
        )  # fmt: skip


def _attempts(folder: Path, name: str) -> list[Path]:
    """Folders of every attempt at the slice ``name``."""
    return [*(folder / FOLDER).glob(f"{name}.*"), *(folder / FOLDER).glob(f"{name}{TWIN}.*")]


def _bytes_in(path: Path) -> int:
    total = 0
    for name in (_SHARD, _JOURNAL):
        with suppress(OSError):
            total += (path / name).stat().st_size
    return total


def _good_rows(shard: Path, wanted: set[str]) -> list[Sample]:
    """The rows called ``wanted`` of a damaged shard that pass their checksum."""
    good = []
    with suppress(InputError, OSError), ShardReader(shard) as reader:
        for row in range(len(reader)):
            with suppress(CorruptRow):
                sample = reader.sample(row)
                if sample.sample_id in wanted:
                    good.append(sample)
    return good

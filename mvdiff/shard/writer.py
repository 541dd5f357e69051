"""Write one shard: row by row into a journal, then in one go, whole or not at all, under its name."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from mvdiff.durable import sync_folder
from mvdiff.errors import InputError
from mvdiff.shard.codec import filters
from mvdiff.shard.handle import Handle
from mvdiff.shard.journal import Journal
from mvdiff.shard.layout import create_file
from mvdiff.shard.reader import ShardReader
from mvdiff.shard.row import Row, digest
from mvdiff.shard.schema import MAX_SIZE, SCHEMA, VERSION, Attributes, Sample

_RESERVED = {"schema", "version", "size", "rig", "codec"}
_MAX_ATTRIBUTE = 16_384


class ShardWriter:
    """The only writer of the shard ``path``.

    Rows survive the death of the process: the next writer of ``path`` finds them (``rows``, ``ids``) and goes on behind
    them. Nothing lies under ``path`` before ``publish``. Its settings (all arguments) must then be the same.

    Raises ``InputError`` where ``path`` is published already, another process writes it, its folder cannot be written,
    or the disk is full: then the rows so far are kept.
    """

    def __init__(
        self,
        path: Path,
        *,
        size: int,
        rig: str,
        codec: str,
        with_alpha: bool,
        attributes: Attributes | None = None,
    ) -> None:
        """``size`` in pixels, ``rig`` and ``codec`` by name; ``attributes`` become root attributes of the file."""
        self.path = Path(path)
        filters(codec)
        if not 1 <= size <= MAX_SIZE:
            raise InputError(f"{path}: pictures of {size} pixels", f"choose a size of 1 to {MAX_SIZE}")
        root: dict[str, str | int | float] = dict(attributes or {})
        for key, value in root.items():
            if key in _RESERVED or len(str(value)) > _MAX_ATTRIBUTE:
                raise InputError(f"{path}: attribute {key!r} is reserved or too long", "rename or shorten it")
        root.update(schema=SCHEMA, version=VERSION, size=size, rig=rig, codec=codec)
        self.size, self.with_alpha, self._root = size, with_alpha, root
        self._journal_path = self.path.with_name(f".{self.path.name}.part")
        with self._told():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(self._journal_path, {**root, "with_alpha": with_alpha, "rows": "encoded"})
        if self.path.exists():
            # A writer that died between publishing and deleting its journal leaves both.
            self._journal.discard()
            raise InputError(f"{path} is published already", "read it, or delete it to write it anew")
        self._ids = set(self._journal.ids)

    @property
    def rows(self) -> int:
        """Rows so far, those of writers that died before this one included."""
        return len(self._journal)

    def ids(self) -> list[str]:
        """Sample ids of the rows so far."""
        return list(self._journal.ids)

    def checksums(self) -> list[int]:
        """Row checksums of the rows so far, as ``Sample.checksum`` gives them."""
        return list(self._journal.checksums)

    def append(self, sample: Sample) -> None:
        """Add a row. It survives the death of this process once the call returns."""
        where = f"sample {sample.sample_id} does not fit {self.path}"
        if sample.size != self.size:
            raise InputError(f"{where}: {sample.size} pixels instead of {self.size}", "resize it")
        if (sample.alpha is not None) != self.with_alpha:
            has, wants = ("has", "without") if sample.alpha is not None else ("lacks", "with")
            raise InputError(f"{where}: it {has} alpha and the shard is {wants}", "write all samples alike")
        if sample.sample_id in self._ids:
            raise InputError(f"{where}: that id is there already", "give every sample an id of its own")
        with self._told():
            self._journal.append(Row.of(sample, str(self._root["codec"])))
        self._ids.add(sample.sample_id)

    def publish(self, order: Sequence[str] | None = None) -> Path:
        """Make the shard from the rows, read back every byte of them from it, and give it its name.

        The rows lie in it as they were appended, or as ``order``, which may name more, orders their ids.
        """
        places = {sample_id: place for place, sample_id in enumerate(order or ())}
        ids = self._journal.ids
        numbers = sorted(range(self.rows), key=lambda k: places[ids[k]]) if order is not None else range(self.rows)
        temporary = self.path.with_name(f".{self.path.name}.new")
        try:
            with self._told():
                rows, name_bytes = self._journal.rows(numbers), self._journal.name_bytes
                create_file(temporary, self._root, self.with_alpha, self.rows, name_bytes, rows)
                self._verify(temporary, numbers)
                temporary.replace(self.path)
                sync_folder(self.path.parent)
                self._journal.discard()
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return self.path

    def _verify(self, temporary: Path, numbers: Sequence[int]) -> None:
        """``OSError`` unless the file, opened anew, holds what was journaled and its first row can be decoded."""
        with Handle(temporary) as handle:
            if numbers:
                ShardReader.of_handle(handle).sample(0)
            for place, number in enumerate(numbers):
                if digest(handle.row(place).pack()) != self._journal.digests[number]:
                    raise OSError(errno.EIO, "what was written reads back differently")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in one line why the disk does not take what is written."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            mend = "free some space and start again: what was written so far is kept" if full else "check that disk"
            raise InputError(f"{self.path} cannot be written ({error.strerror or error})", mend) from error

    def close(self) -> None:
        """Let go of the lock. Rows that were not published wait for the next writer of this path."""
        self._journal.close()

    def discard(self) -> None:
        """Throw the rows away that were not published."""
        self._journal.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

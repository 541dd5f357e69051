"""Where every sample of many shards lies. An index of its own: a virtual dataset reads a missing shard as zeros."""

import os
import re
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import translate
from multiprocessing import get_context
from pathlib import Path
from typing import Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from mvdiff.errors import InputError, counted
from mvdiff.progress import Progress
from mvdiff.rig import readable
from mvdiff.shard.reader import ShardReader
from mvdiff.shard.schema import name_problem
from mvdiff.shard.seal import DamagedShard

_MANY = 500
"""So many shards take seconds to scan: progress is shown, and several processes share them where that is allowed."""
_PROCESSES = 8
"""Most processes that scan: a login node belongs to others too."""


def find_shards(path: Path, chosen: Sequence[str] | None = None) -> list[Path]:
    """The shard ``path``, or every shard in that folder and those below it, sorted.

    Hidden files are none: they are being written. ``chosen`` keeps those that one of its words names: a path below
    ``path``, a file name, with or without its ending, or a pattern (``*``, ``?``, ``[...]``) of any of these. Raises
    ``InputError`` where there is nothing, and for a word that names nothing.
    """
    path = Path(path)
    if path.is_file():
        shards, root = [path], path.parent
    elif path.is_dir():
        shards, root = sorted(_visible(path)), path
        if not shards:
            raise InputError(f"{path} holds no shards", "give a folder with .h5 files; 'mvdiff pack' makes some")
    else:
        raise InputError(f"{path} does not exist", "give a shard, or a folder that holds some")
    return shards if chosen is None else _chosen(shards, root, chosen)


def _visible(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in files if name.endswith(".h5") and not name.startswith("."))


def _chosen(shards: list[Path], root: Path, words: Sequence[str]) -> list[Path]:
    names = [
        (below, below.removesuffix(".h5"), shard.name, shard.stem)
        for shard in shards
        for below in [shard.relative_to(root).as_posix()]
    ]
    where: dict[str, list[int]] = {}
    for i, of_one in enumerate(names):
        for name in of_one:
            where.setdefault(name, []).append(i)
    kept: set[int] = set()
    for word in words:
        found = where.get(word, [])
        if not found and re.search(r"[*?\[]", word):
            pattern = re.compile(translate(word))
            found = [i for i, of_one in enumerate(names) if any(map(pattern.match, of_one))]
        if not found:
            raise InputError(
                f"no shard in {root} is called {word!r}", f"give names or patterns such as {names[0][0]} or '*.h5'"
            )
        kept.update(found)
    return [shards[i] for i in sorted(kept)]


@dataclass(frozen=True)
class ShardIndex:
    """The samples of many shards as one sequence, ordered by shard path, then row."""

    shards: list[Path]
    ids: list[str]
    """Sample ids, all different."""
    recordings: list[str]
    rig: str
    size: int
    """Height and width of all pictures in pixels."""
    single: bool
    """Whether only view 0 of the samples is known: pictures to generate from."""
    with_alpha: bool
    """Whether every shard has alpha."""
    unreadable: dict[Path, str]
    """Shards that were left out, each with what is wrong with it, its path included."""
    shard: NDArray[np.int32]
    """Number of each sample's shard in ``shards``."""
    row: NDArray[np.int32]
    """Row of each sample in its shard."""
    checksums: NDArray[np.uint64]
    """Row checksum of each sample."""

    @classmethod
    def scan(cls, path: Path) -> Self:
        """Index the shard ``path``, or every shard in that folder and those below it.

        Reads headers and small columns only. Raises ``InputError`` where there is nothing, a file is damaged or no
        shard, two shards differ in rig or picture size, or two rows have the same id.
        """
        return cls._of(path, find_shards(path), leave_out=False)

    @classmethod
    def scan_readable(cls, path: Path, chosen: Sequence[str] | None = None) -> Self:
        """As ``scan``, of the shards that ``chosen`` names (``find_shards``) and that can be read.

        Those that cannot are ``unreadable``; ``InputError`` where none can. May fork: not for a process with threads
        that compute.
        """
        return cls._of(path, find_shards(path, chosen), leave_out=True)

    @classmethod
    def _of(cls, path: Path, shards: list[Path], leave_out: bool) -> Self:
        read: list[Path] = []
        contents: list[_Contents] = []
        unreadable: dict[Path, str] = {}
        for shard, found in zip(shards, _read_all(path, shards, forking=leave_out), strict=True):
            if isinstance(found, _Contents):
                if contents and found.traits != contents[0].traits:
                    raise InputError(
                        f"{shard} has {found.described}, and {read[0]} {contents[0].described}",
                        "keep them in folders apart",
                    )
                read.append(shard)
                contents.append(found)
            elif leave_out:
                unreadable[shard] = found.what
            else:
                raise found
        if not read:
            more = f", nor can {counted(len(unreadable) - 1, 'other shard')} be read" if len(unreadable) > 1 else ""
            raise InputError(
                f"{next(iter(unreadable.values()))}{more}", "restore from a copy, or delete and write again"
            )
        ids = [sample_id for one in contents for sample_id in one.ids]
        if not ids:
            raise InputError(f"{path} holds no samples", "its shards are empty: pack some samples first")
        lengths = [len(one.ids) for one in contents]
        index = cls(
            read,
            ids,
            [recording for one in contents for recording in one.recordings],
            *contents[0].traits,
            all(one.with_alpha for one in contents),
            unreadable,
            np.repeat(np.arange(len(read), dtype=np.int32), lengths),
            np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
            np.concatenate([one.checksums for one in contents]),
        )
        index._refuse_twins()
        return index

    def refuse_single(self) -> None:
        """Raise an ``InputError`` where the samples are single pictures: nothing can be learned from or held against
        views that nobody has seen."""
        if self.single:
            raise InputError(
                f"{self.shards[0]} holds single pictures, whose other views are not known",
                "give shards of samples with six views; single pictures are for mvdiff generate",
            )

    def _refuse_twins(self) -> None:
        if len(set(self.ids)) == len(self.ids):
            return
        owner: dict[str, int] = {}
        for i, sample_id in enumerate(self.ids):
            first = owner.setdefault(sample_id, i)
            if first != i:
                raise InputError(
                    f"sample {sample_id} is in {self.locate(first)[0]} and in {self.locate(i)[0]}",
                    "give a folder that holds each sample once, such as runs/NAME/shards/train",
                )

    def __len__(self) -> int:
        return len(self.ids)

    def locate(self, i: int) -> tuple[Path, int]:
        """Shard and row of sample ``i``."""
        return self.shards[self.shard[i]], int(self.row[i])

    def fingerprint(self) -> str:
        """What the rows hold, whatever shards they lie in: xxh3_128 over every id and checksum, sorted."""
        rows = sorted(
            f"{sample_id} {value}" for sample_id, value in zip(self.ids, self.checksums.tolist(), strict=True)
        )
        return xxhash.xxh3_128_hexdigest("\n".join(rows).encode())

    def checksum(self, i: int) -> int:
        """Row checksum of sample ``i``, as ``Sample.checksum`` gives it."""
        return int(self.checksums[i])


@dataclass(frozen=True)
class _Contents:
    """What the index keeps of one shard."""

    traits: tuple[str, int, bool]
    """Rig, size in pixels, and whether its pictures are single ones: alike in all shards."""
    with_alpha: bool
    ids: list[str]
    recordings: list[str]
    checksums: NDArray[np.uint64]

    @property
    def described(self) -> str:
        rig, size, single = self.traits
        return f"{'single pictures for ' if single else ''}rig {readable(rig)} at {size} pixels"


def _read(shard: Path) -> _Contents | InputError:
    """The contents of ``shard``, or why it cannot be read."""
    try:
        with ShardReader(shard) as reader:
            ids = reader.ids()
            for sample_id in ids:
                if problem := name_problem(sample_id):
                    raise DamagedShard(shard, f"holds the sample id {sample_id!r}: {problem}")
            checksums = np.array(reader.checksums(), np.uint64)
            return _Contents(
                (reader.rig, reader.size, reader.single), reader.with_alpha, ids, reader.recordings(), checksums
            )
    except InputError as error:
        return error
    except OSError as error:
        return DamagedShard(shard, f"cannot be read ({error.strerror or error})")


def _read_all(path: Path, shards: list[Path], forking: bool) -> Iterator[_Contents | InputError]:
    """``_read`` of every shard, in order."""
    if len(shards) < _MANY:
        yield from map(_read, shards)
        return
    with ExitStack() as stack:
        found: Iterator[_Contents | InputError] = map(_read, shards)
        if forking:
            processes = min(_PROCESSES, len(os.sched_getaffinity(0)))
            # Ctrl-C is the parent's to tell of.
            pool = ProcessPoolExecutor(processes, get_context("fork"), signal.signal, (signal.SIGINT, signal.SIG_IGN))
            stack.callback(pool.shutdown, cancel_futures=True)
            found = pool.map(_read, shards, chunksize=32)
        with Progress(f"index {path}", len(shards), "shards") as progress:
            for one in found:
                yield one
                progress.advance()

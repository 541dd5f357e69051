"""The plan of a result set: which samples, from which rows, in which fixed slices.

A plan is a sequence of immutable segments. The first call plans all it was asked for; a later one that asks for more
(the data has grown, a limit was lifted) adds a segment with what is new and touches nothing else. A segment is two
files: ``plan-0000-<hash>.npy``, named by its content: the array of records, one a sample, and behind it the array of
their ids' bytes; and ``plan-0000.json``, which names it and appears last, whole, and once.
"""

import json
import os
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from mvdiff.durable import link_new, published, sync_file, sync_folder
from mvdiff.errors import InputError
from mvdiff.generate.settings import Recipe
from mvdiff.rig import readable
from mvdiff.shard import ShardIndex

SET_FILE = "set.json"
VERSION = 2
SLICE_FILE = re.compile(r"slice-(\d{4}-\d{6,})\.h5")
RECORD = np.dtype([("shard", "<u4"), ("row", "<u4"), ("checksum", "<u8")])
"""One planned sample: number of its shard in the segment, row in it, and the checksum that row had."""


@dataclass(frozen=True)
class Slice:
    """The samples that one worker claims at once. Its batches are ``[0, batch)``, ``[batch, 2 batch)``, ..."""

    name: str
    """``SEGMENT-NUMBER``, as in its files' names."""
    ids: list[str]
    shards: list[Path]
    """Input shard of each sample."""
    rows: list[int]
    """Row of each sample in its shard."""
    checksums: list[int]
    """Checksum that row had when it was planned."""
    codec: str
    """Codec of the slice's result shard."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def file_name(self) -> str:
        """Name of the slice's result shard in the set's folder."""
        return slice_file(self.name)


@dataclass(frozen=True)
class Segment:
    """What one call added to the plan."""

    number: int
    slice: int
    """Samples in a slice; the last one may be shorter."""
    codec: str
    retried: int
    """How many of its samples an earlier segment had planned and had to leave out."""
    shards: list[str]
    entries: NDArray[np.void]
    """``RECORD`` [samples]."""
    names: NDArray[np.uint8]
    """Their ids as UTF-8, a NUL behind each: no id holds one."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the segment at ``path`` (its JSON file); ``InputError`` when its bytes are not the ones planned."""
        header = _read_json(path)
        if header.get("version") != VERSION:
            raise InputError(f"{path} is a plan of version {header.get('version')}", "use the mvdiff that made it")
        entries = path.with_name(header["entries"])
        content = entries.read_bytes() if entries.exists() else b""
        if xxhash.xxh3_64_hexdigest(content) != header["checksum"]:
            raise InputError(f"{entries} is missing or damaged", "restore it, or start another run")
        stored = BytesIO(content)
        records, names = (np.load(stored, allow_pickle=False) for _ in range(2))
        return cls(
            header["number"], header["slice"], header["codec"], header["retried"], header["shards"], records, names
        )

    def publish(self, folder: Path) -> bool:
        """Write the segment into ``folder``; False, leaving nothing behind, when its number is taken by now."""
        buffer = BytesIO()
        for array in (self.entries, self.names):
            np.save(buffer, array, allow_pickle=False)
        content = buffer.getbuffer()
        checksum = xxhash.xxh3_64_hexdigest(content)
        path = segment_path(folder, self.number)
        entries = folder / f"{path.stem}-{checksum}.npy"
        with published(entries) as temporary:
            temporary.write_bytes(content)
        header = {
            "version": VERSION, "number": self.number, "samples": len(self.entries), "slice": self.slice,
            "codec": self.codec, "retried": self.retried, "entries": entries.name, "checksum": checksum,
            "shards": self.shards,
        }  # fmt: skip
        if _publish_json_once(path, header):
            return True
        if _read_json(path)["entries"] != entries.name:
            entries.unlink(missing_ok=True)
        return False

    def __len__(self) -> int:
        """Number of slices."""
        return -(-len(self.entries) // self.slice)

    @cached_property
    def ids(self) -> list[str]:
        """Sample ids in the order of the plan."""
        return self._names(0, len(self.entries))

    @cached_property
    def _ends(self) -> NDArray[np.intp]:
        """Where the NUL behind each id lies in ``names``."""
        return np.flatnonzero(self.names == 0)

    def _names(self, begin: int, end: int) -> list[str]:
        """Ids of the samples ``begin`` to ``end``, at least one."""
        first = self._ends[begin - 1] + 1 if begin else 0
        return self.names[first : self._ends[end - 1]].tobytes().decode().split("\0")

    def name_at(self, number: int) -> str:
        """Name of slice ``number``."""
        return f"{self.number:04d}-{number:06d}"

    def slice_at(self, number: int) -> Slice:
        """Slice ``number`` of this segment."""
        begin = number * self.slice
        part = self.entries[begin : begin + self.slice]
        return Slice(
            self.name_at(number),
            self._names(begin, begin + len(part)),
            [Path(self.shards[shard]) for shard in part["shard"].tolist()],
            part["row"].tolist(),
            part["checksum"].tolist(),
            self.codec,
        )


@dataclass(frozen=True)
class Plan:
    """The plan of the result set in ``folder``, as it stood when it was loaded."""

    folder: Path
    recipe: Recipe
    segments: list[Segment]

    @staticmethod
    def is_there(folder: Path) -> bool:
        """Whether ``folder`` is a result set."""
        return (folder / SET_FILE).exists()

    @staticmethod
    def recipe_of(folder: Path) -> Recipe:
        """The recipe of the result set ``folder``; ``InputError`` if that is none, or of another version."""
        path = folder / SET_FILE
        if not path.exists():
            raise InputError(f"{folder} holds no result set", "give a folder that mvdiff generate made")
        try:
            return Recipe(**_read_json(path)["recipe"])
        except (TypeError, KeyError):
            raise InputError(f"{path} was written by another version", "use the mvdiff that made it") from None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the plan of the result set ``folder``; ``InputError`` if there is none or it is damaged."""
        recipe = cls.recipe_of(folder)
        segments: list[Segment] = []
        while (file := segment_path(folder, len(segments))).exists():
            segments.append(Segment.load(file))
        return cls(folder, recipe, segments)

    def __len__(self) -> int:
        """Number of slices."""
        return sum(len(segment) for segment in self.segments)

    @property
    def samples(self) -> int:
        """Number of different samples planned."""
        return sum(len(segment.entries) - segment.retried for segment in self.segments)

    def slice_at(self, number: int) -> Slice:
        """Slice ``number`` of the whole plan, in microseconds however long the plan is."""
        for segment in self.segments:
            if number < len(segment):
                return segment.slice_at(number)
            number -= len(segment)
        raise IndexError(number)

    def __iter__(self) -> Iterator[Slice]:
        return (segment.slice_at(k) for segment in self.segments for k in range(len(segment)))

    def sizes(self) -> dict[str, int]:
        """Every slice's name and number of samples, in the order of ``slice_at``."""
        return {
            segment.name_at(k): min(segment.slice, len(segment.entries) - k * segment.slice)
            for segment in self.segments
            for k in range(len(segment))
        }

    def published(self) -> set[str]:
        """Names of the slices whose result shards are there."""
        found = (SLICE_FILE.fullmatch(entry.name) for entry in os.scandir(self.folder))
        return {match[1] for match in found if match}

    def unpublished(self) -> int:
        """How many slices' result shards are not there."""
        return len(self) - len(self.published())

    def is_published(self, name: str) -> bool:
        """Whether the result shard of the slice ``name`` is there."""
        return (self.folder / slice_file(name)).exists()


def slice_file(name: str) -> str:
    """Name of the result shard of the slice ``name`` in its set's folder."""
    return f"slice-{name}.h5"


def segment_path(folder: Path, number: int) -> Path:
    """Where segment ``number`` of the plan in ``folder`` lies."""
    return folder / f"plan-{number:04d}.json"


def make_plan(
    results: Path,
    index: ShardIndex,
    recipe: Recipe,
    *,
    slice_size: int,
    codec: str,
    asked: Iterable[int] | None = None,
    retry: "Callable[[Plan], Collection[str]] | None" = None,
) -> Plan:
    """Plan what is missing of ``recipe`` applied to the samples of ``index``, in ``results/<set id>/``.

    All samples are asked for, or those at the positions ``asked``, rising (``selection.choose``). What is planned
    already stays as it is, so that the same call again changes nothing; several planners at once end with the same
    plan. ``retry`` says which samples of a plan failed and are to be planned once more (``status.quarantined``).

    Raises ``InputError`` for another rig than the recipe's, and a sample whose input is not the one that an earlier
    call planned under that id.
    """
    if index.rig != recipe.rig:
        raise InputError(
            f"{index.shards[0]} was taken with the rig {readable(index.rig)}, "
            f"the checkpoint makes views of {readable(recipe.rig)}",
            "give data of that rig, or a checkpoint trained on this one",
        )
    wanted = range(len(index)) if asked is None else list(asked)
    folder = results / recipe.set_id
    folder.mkdir(parents=True, exist_ok=True)
    _publish_json_once(folder / SET_FILE, {"version": VERSION, "recipe": asdict(recipe)})
    while True:
        plan = Plan.load(folder)
        if plan.recipe != recipe:
            raise InputError(f"{folder / SET_FILE} was changed by hand", "restore it, or start another run")
        again = set(retry(plan)) if retry else set()
        missing = _missing(plan, index, wanted, again)
        if not missing:
            return plan
        retried = sum(index.ids[i] in again for i in missing) if again else 0
        Segment(len(plan.segments), slice_size, codec, retried, *_records(index, missing)).publish(folder)


def _missing(plan: Plan, index: ShardIndex, wanted: Iterable[int], again: set[str]) -> list[int]:
    """The positions ``wanted`` of ``index`` whose samples no segment holds, or that are to be done ``again``."""
    known: dict[str, int] = {}
    for segment in plan.segments:
        known.update(zip(segment.ids, segment.entries["checksum"].tolist(), strict=True))
    if not known:
        return list(wanted)
    ids, checksums = index.ids, index.checksums.tolist()
    missing = []
    for i in wanted:
        planned = known.get(ids[i])
        if planned is None:
            missing.append(i)
        elif planned != checksums[i]:
            raise InputError(
                f"sample {ids[i]} of {index.locate(i)[0]} is not the picture that {plan.folder} holds or plans",
                "give changed pictures new ids, or start another run",
            )
        elif ids[i] in again:
            missing.append(i)
    return missing


def _records(index: ShardIndex, positions: list[int]) -> tuple[list[str], NDArray[np.void], NDArray[np.uint8]]:
    """Paths of the shards in use, ``RECORD`` [len(positions)], and the bytes of the ids."""
    used, shard = np.unique(index.shard[positions], return_inverse=True)
    records = np.empty(len(positions), RECORD)
    records["shard"], records["row"], records["checksum"] = shard, index.row[positions], index.checksums[positions]
    names = "".join(f"{index.ids[i]}\0" for i in positions).encode()
    return [str(index.shards[k].resolve()) for k in used], records, np.frombuffer(names, np.uint8)


def _publish_json_once(path: Path, content: Any) -> bool:
    """Publish ``content`` under ``path`` unless that is taken; True if this call did it."""
    if path.exists():
        return False
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        sync_file(temporary)
        won = link_new(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return won


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})", "restore it, or start another run") from None


def find_sets(path: Path) -> list[Path]:
    """The result set ``path``, or every one in that folder and those below it, sorted."""
    return sorted(file.parent for file in path.rglob(SET_FILE) if file.is_file()) if path.is_dir() else []

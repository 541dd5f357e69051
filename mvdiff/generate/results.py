"""Read generated views back by sample id."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvdiff.errors import InputError
from mvdiff.generate.inputs import OPEN_SHARDS
from mvdiff.generate.ledger import read_ledger
from mvdiff.generate.plan import SET_FILE, Plan, slice_file
from mvdiff.shard import CorruptRow, DamagedShard, Sample, ShardIndex, ShardReader


class ResultStore:
    """The generated views of a result set: ``store[sample_id]`` -> uint8 [6, H, W, 3], checked against its checksum.

    ``path`` is a result set, a folder that holds exactly one, or any shards. The store holds what was published when it
    was made. To open a result set reads its plan and ledger and lists its files; a file is opened when one of its
    samples is asked for, in each process. Picklable.

    ``InputError`` when there is nothing to read, or more than one set to choose from; when a row that is asked for
    fails its checksum, ``CorruptRow``, and when the whole file does, ``DamagedShard``.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = result_set(Path(path))
        self._readers: OrderedDict[Path, tuple[ShardReader, dict[str, int]]] = OrderedDict()
        self._files: list[Path]
        self._places: dict[str, int]
        """Number of the file in ``_files`` that holds a sample."""
        if (self.path / SET_FILE).exists():
            plan = Plan.load(self.path)
            self._of: str | ShardIndex = plan.recipe.set_id
            self._files, self._places = _published(plan)
            if not self._files:
                raise InputError(
                    f"{self.path} holds no results yet", "run mvdiff generate to the end of its first slice"
                )
        else:
            index = ShardIndex.scan(self.path)
            numbers = {path: number for number, path in enumerate(index.shards)}
            self._files = index.shards
            self._places = {sample_id: numbers[index.locate(i)[0]] for i, sample_id in enumerate(index.ids)}
            self._of = index

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in self._places

    def ids(self) -> list[str]:
        """Ids of all samples, in the order of iteration: file by file."""
        return list(self._places)

    def __getitem__(self, sample_id: str) -> NDArray[np.uint8]:
        return self.sample(sample_id).views

    def __iter__(self) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Pairs of a sample's id and its views uint8 [6, H, W, 3]."""
        return ((sample_id, self[sample_id]) for sample_id in self._places)

    def sample(self, sample_id: str) -> Sample:
        """The views with the cameras they are seen by; ``KeyError`` for an id that is not there."""
        path = self._files[self._places[sample_id]]
        reader, rows = self._opened(path)
        if sample_id not in rows:
            raise DamagedShard(path, f"lacks the sample {sample_id}, which was published in it")
        try:
            sample = reader.sample(rows[sample_id])
        except CorruptRow as error:
            error.mend = f"mvdiff verify {self.path} --repair makes it again"
            raise
        if sample.sample_id != sample_id:
            # A forked process opens the file anew, and a repair may have replaced it since its rows were listed.
            raise InputError(f"{path} was replaced while it was read", "open the results again")
        return sample

    def _opened(self, path: Path) -> tuple[ShardReader, dict[str, int]]:
        """A reader of the file at ``path``, and the row of every id in it."""
        if path not in self._readers:
            reader = ShardReader(path)
            self._readers[path] = reader, {sample_id: row for row, sample_id in enumerate(reader.ids())}
            if len(self._readers) > OPEN_SHARDS:
                self._readers.popitem(last=False)[1][0].close()
        self._readers.move_to_end(path)
        return self._readers[path]

    def identity(self) -> str:
        """What tells this store from others: its result set, which may grow; of plain shards a hash of their rows."""
        return self._of if isinstance(self._of, str) else self._of.fingerprint()

    def attributes(self) -> dict[str, Any]:
        """What made the results: checkpoint, steps, guidance, seed, ... (of the first file)."""
        with ShardReader(self._files[0]) as reader:
            return reader.attributes

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": OrderedDict()}


def _published(plan: Plan) -> tuple[list[Path], dict[str, int]]:
    """The published files of ``plan``, and for every sample the number of the file that holds it.

    A sample that a slice had to leave out may be planned again: the last published slice with it counts. The files
    decide; what the ledger says a slice lacks only saves opening it.
    """
    published, told = plan.published(), left_out(read_ledger(plan.folder))
    files: list[Path] = []
    places: dict[str, int] = {}
    for segment in plan.segments:
        for number in range(len(segment)):
            name = segment.name_at(number)
            if name not in published:
                continue
            path = plan.folder / slice_file(name)
            planned = segment.ids[number * segment.slice : (number + 1) * segment.slice]
            try:
                lacks = set(told[name] if name in told else lacking(path, planned))
            except DamagedShard:
                # Its samples were published; whoever asks for one is told what has become of it.
                lacks = set()
            there = [one for one in planned if one not in lacks] if lacks else planned
            places.update(dict.fromkeys(there, len(files)))
            files.append(path)
    return files, places


def left_out(ledger: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """What each published slice of a result set lacks, where the lines of its ``ledger`` tell.

    A slice that was published more than once, with different words, is not in it: clocks of nodes do not say which was
    the last, and the file does.
    """
    told: dict[str, list[str]] = {}
    doubtful: set[str] = set()
    for line in ledger:
        if line["kind"] == "published" and told.setdefault(line["slice"], line["missing"]) != line["missing"]:
            doubtful.add(line["slice"])
    return {name: missing for name, missing in told.items() if name not in doubtful}


def lacking(path: Path, planned: list[str]) -> list[str]:
    """What the file at ``path`` lacks of the samples ``planned`` in it, where the ledger does not tell.

    Raises ``DamagedShard`` for a file that cannot be opened.
    """
    with ShardReader(path) as reader:
        there = set(reader.ids())
    return [sample_id for sample_id in planned if sample_id not in there]


def result_set(path: Path) -> Path:
    """``path`` itself if it is a result set, the only set in it if it holds one, and ``path`` if it holds none."""
    if (path / SET_FILE).exists() or not path.is_dir():
        return path
    sets = sorted(file.parent for file in path.glob(f"*/{SET_FILE}"))
    if len(sets) > 1:
        told = "; ".join(f"{found.name}: {Plan.recipe_of(found).described()}" for found in sets)
        raise InputError(f"{path} holds {len(sets)} result sets ({told})", "name one of them")
    return sets[0] if sets else path

"""A whole data set of mice in shards, split by animal: planned at once, drawn by any number of workers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvdiff.errors import InputError
from mvdiff.mouse.heading import Heading
from mvdiff.mouse.render import recording_name, render_mouse, sample_name
from mvdiff.progress import Progress
from mvdiff.rig import rig
from mvdiff.shard.codec import filters
from mvdiff.shard.reader import ShardReader
from mvdiff.shard.schema import MAX_SIZE
from mvdiff.shard.split import held_out_recordings
from mvdiff.shard.writer import ShardWriter

SETS = ("train", "heldout")

_SOURCE = "procedural mice 1"
"""Says which mice a shard holds; the number changes when the same seed draws other pictures."""
_SMALLEST = 16


@dataclass(frozen=True)
class Colony:
    """What decides the content of a data set. ``check`` before use."""

    samples: int
    """How many samples in all, the held-out ones included."""
    seed: int
    """Which mice; from 0."""
    heading: str
    """``front``, ``side``, ``front-or-side``, ``any``, or a number of degrees."""
    size: int
    """Height and width of the pictures in pixels."""
    rig: Any
    """The cameras: what ``rig.rig`` takes; kept as the rig's text."""
    codec: str
    """How the shards are compressed."""
    held_out: float
    """What goes to ``heldout``: a share of the samples below 1, or how many; never a part of an animal's."""
    shard_samples: int
    """Samples a shard."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rig", rig(self.rig).text)

    def check(self) -> None:
        """Raise an ``InputError`` for the first setting that makes no sense."""
        for name, low in (("samples", 1), ("seed", 0), ("shard_samples", 1), ("size", _SMALLEST)):
            if getattr(self, name) < low:
                raise InputError(f"{name} is {getattr(self, name)}", f"give {low} or more")
        if self.seed >= 2**63:
            raise InputError(f"seed is {self.seed}", "give less than 2**63")
        if self.size > MAX_SIZE:
            raise InputError(f"size is {self.size}", f"give at most {MAX_SIZE}")
        Heading.parse(self.heading)
        filters(self.codec)
        plan(self)

    def attributes(self) -> dict[str, str | int | float]:
        """What a shard says about where its pictures come from."""
        return {"source": _SOURCE, "seed": self.seed, "heading": Heading.parse(self.heading).name}


@dataclass(frozen=True)
class Batch:
    """One planned shard: its path in the data set's folder and the samples it holds."""

    path: Path
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Counts:
    """What a call of ``synthesise`` did, in samples."""

    drawn: int
    """By this call."""
    kept: int
    """In shards that were there already."""
    left: int
    """In shards that are not published, since the call was asked to stop."""


def plan(colony: Colony) -> list[Batch]:
    """The shards of a data set, ``train/`` first; a pure function of the settings."""
    names = [recording_name(colony.seed, index) for index in range(colony.samples)]
    held_out = held_out_recordings(names, colony.held_out, colony.seed)
    batches = []
    for name in SETS:
        indices = [index for index, recording in enumerate(names) if (recording in held_out) == (name == "heldout")]
        for number, start in enumerate(range(0, len(indices), colony.shard_samples)):
            path = Path(name) / f"mice-{number:05d}.h5"
            batches.append(Batch(path, tuple(indices[start : start + colony.shard_samples])))
    return batches


def remaining(out: Path, colony: Colony) -> int:
    """How many samples are not published yet in ``out``; an ``InputError`` if other data lies there."""
    colony.check()
    batches = plan(colony)
    _refuse_strangers(out, batches)
    return sum(len(batch.indices) for batch in batches if not _published(out / batch.path, batch, colony))


def synthesise(
    out: Path,
    colony: Colony,
    *,
    worker: int = 0,
    workers: int = 1,
    should_stop: Callable[[], bool] = lambda: False,
) -> Counts:
    """Publish this worker's share of the shards ``out/train/*.h5`` and ``out/heldout/*.h5``.

    Every shard has one writer: worker ``worker`` of ``workers`` makes each ``workers``-th one. Shards that are there
    are kept, one that was left half-way goes on after its last good row. ``should_stop`` is asked before every sample;
    the rows drawn so far wait for the next call.

    Raises:
        InputError: a setting makes no sense, or ``out`` holds other data than these settings would make.
    """
    colony.check()
    batches = plan(colony)
    _refuse_strangers(out, batches)
    share = batches[worker::workers]
    drawn = kept = 0
    with Progress("mice", sum(len(batch.indices) for batch in share)) as progress:
        for batch in share:
            path = out / batch.path
            if _published(path, batch, colony):
                kept += len(batch.indices)
                progress.advance(len(batch.indices))
            elif not should_stop():
                drawn += _write(path, batch, colony, progress, should_stop)
    return Counts(drawn, kept, sum(len(batch.indices) for batch in share if not (out / batch.path).exists()))


def _write(path: Path, batch: Batch, colony: Colony, progress: Progress, should_stop: Callable[[], bool]) -> int:
    """Draw a shard's samples from where it was left and publish it; how many were drawn."""
    cameras, heading = rig(colony.rig), Heading.parse(colony.heading)
    with ShardWriter(
        path, size=colony.size, rig=colony.rig, codec=colony.codec, with_alpha=True, attributes=colony.attributes()
    ) as writer:
        before = writer.rows
        progress.advance(before)
        for index in batch.indices[before:]:
            if should_stop():
                return writer.rows - before
            writer.append(render_mouse(colony.seed, index, rig=cameras, size=colony.size, heading=heading))
            progress.advance()
        drawn = writer.rows - before
        writer.publish()
    return drawn


def _published(path: Path, batch: Batch, colony: Colony) -> bool:
    """Whether the shard is there; an ``InputError`` if it holds something else than planned."""
    if not path.exists():
        return False
    with ShardReader(path) as reader:
        attributes, stored = reader.attributes, reader.ids()
    expected = {**colony.attributes(), "size": colony.size, "rig": colony.rig, "codec": colony.codec}
    ids = [sample_name(colony.seed, index) for index in batch.indices]
    differs = [name for name, value in expected.items() if attributes.get(name) != value]
    if stored != ids and not differs:
        differs = ["samples"]
    if differs:
        raise InputError(
            f"{path} was made with another setting of {', '.join(differs)}", "write to a new folder, or remove this one"
        )
    return True


def _refuse_strangers(out: Path, batches: list[Batch]) -> None:
    """A shard that these settings do not make would silently become a part of the data set."""
    planned = {out / batch.path for batch in batches}
    for name in SETS:
        for path in sorted((out / name).rglob("*.h5")):
            if path not in planned and not path.name.startswith("."):
                raise InputError(
                    f"{path} is not a shard that these settings make",
                    "give the settings it was made with, or write to a new folder",
                )

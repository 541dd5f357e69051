"""Pack a folder of pictures into shards, split by recording.

``OUT/train/*.h5`` and ``OUT/heldout/*.h5``, or ``OUT/single/*.h5``, appear one by one, each whole; ``OUT/pack.json``
says what they are made of and is complete once all are there. A packing that was stopped goes on; one that is done is
left alone.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import xxhash

from mvdiff import facelift, portrait, turntable
from mvdiff.durable import write_json, write_text
from mvdiff.errors import InputError, counted
from mvdiff.picture import MASKS
from mvdiff.progress import Progress
from mvdiff.rig import readable, rig
from mvdiff.shard.codec import filters
from mvdiff.shard.reader import ShardReader
from mvdiff.shard.schema import MAX_SIZE, SINGLE_ATTRIBUTE, Sample
from mvdiff.shard.split import held_out_recordings
from mvdiff.shard.writer import ShardWriter
from mvdiff.survey import Candidate, Survey, survey
from mvdiff.threads import concurrently

SINGLE = "single"
SETS = ("train", "heldout", SINGLE)
LAYOUTS = ("file", "rig", SINGLE)
"""Where a sample's cameras are from: see ``PackSettings.cameras``."""
RECORD = "pack.json"
REFUSED = "refused.jsonl"

_WHITE_GROUND = 0.5
"""Share of a view's border that is white where its ground is."""
_FOV_TOLERANCE = 5.0
"""Degrees by which a sample's field of view may differ from the rig's before it is remarked on."""


@dataclass(frozen=True)
class PackSettings:
    """What decides the content of the packed data set, besides its source. ``check`` before use."""

    size: int
    """Height and width of the packed pictures in pixels."""
    rig: Any
    """The cameras that every sample must have: what ``rig.rig`` takes; kept as the rig's text."""
    cameras: str
    """file: each sample has a camera file (``facelift``); rig: none has, and the rig took them (``turntable``); single:
    each picture is a sample, of which no other view is known (``portrait``)."""
    like: str | None
    """A checkpoint: single pictures are framed as its training pictures are, whose size and rig are meant then."""
    codec: str
    """How the shards are compressed."""
    held_out: int | float
    """How many samples (int), or which share of them (float below 1), go to ``heldout``, in whole recordings."""
    seed: int
    """Which recordings those are."""
    shard_samples: int
    """Samples a shard."""
    recording_pattern: str | None
    """Regular expression that finds the recording in a sample id; None: see ``read_sample`` of the layout."""
    strict: bool
    """Whether one bad sample refuses the whole; otherwise it is left out and reported."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rig", rig(self.rig).text)

    def check(self) -> None:
        """Raise an ``InputError`` for the first setting that makes no sense."""
        if not 1 <= self.size <= MAX_SIZE:
            raise InputError(f"size is {self.size}", f"give 1 to {MAX_SIZE}")
        if self.shard_samples < 1:
            raise InputError(f"shard_samples is {self.shard_samples}", "give 1 or more")
        share = isinstance(self.held_out, float)
        if not (0 <= self.held_out < 1 if share else self.held_out >= 0):
            raise InputError(f"held_out is {self.held_out}", "give a share from 0 to below 1, or a number of samples")
        if self.cameras not in LAYOUTS:
            raise InputError(f"cameras is {self.cameras}", f"choose {', '.join(LAYOUTS)}")
        if (self.cameras == SINGLE) != (self.like is not None):
            raise InputError(
                f"cameras={self.cameras} and like={self.like or 'null'} do not go together",
                "say cameras=single like=CHECKPOINT for single pictures, and neither for others",
            )
        filters(self.codec)
        self.pattern()

    def pattern(self) -> re.Pattern[str] | None:
        """``recording_pattern``, compiled."""
        try:
            return None if self.recording_pattern is None else re.compile(self.recording_pattern)
        except re.error as error:
            raise InputError(
                f"recording_pattern {self.recording_pattern!r} is no regular expression ({error})",
                r"write it as Python's re does, as in '^(mouse\d+)_'",
            ) from None


@dataclass(frozen=True)
class PackReport:
    """What ``pack`` did."""

    train: int
    """Samples in ``train``."""
    heldout: int
    """Samples in ``heldout``."""
    single: int
    """Single pictures, in ``single``."""
    shards: list[Path]
    with_alpha: bool
    done_before: bool
    """Whether everything was there already."""
    refused: list[tuple[str, str]]
    """Sample folder and reason; also in ``OUT/refused.jsonl``."""
    remarks: list[str]
    """What a person should know about the data, a sentence each."""


def survey_for(source: Path, settings: PackSettings) -> Survey:
    """Read every sample as ``pack`` would, writing nothing.

    Raises ``InputError`` as ``survey`` does, and where no recordings can be held out as asked.
    """
    settings.check()
    folders = _folders(source, settings)
    found = survey(source, folders, _reader(source, folders, settings), rig(settings.rig), settings.strict)
    _plan(found.good, settings)
    return found


def _folders(source: Path, settings: PackSettings) -> list[Path]:
    """The sample folders of ``source``; the pictures where each is a sample."""
    if settings.cameras == SINGLE:
        return portrait.find_pictures(source)
    return (turntable if settings.cameras == "rig" else facelift).find_samples(source)


def _reader(source: Path, folders: list[Path], settings: PackSettings) -> Callable[[Path], Sample]:
    """What reads one of the ``folders`` of ``source``."""
    cameras, pattern, size = rig(settings.rig), settings.pattern(), settings.size
    if settings.like is not None:
        studio = portrait.Studio.of(Path(settings.like))
        if (studio.rig, studio.size) != (cameras, size):
            raise InputError(
                f"{settings.like} sees {studio.size} pixels by {studio.rig.described}, asked for are {size} by "
                f"{cameras.described}",
                "leave size and rig out: they are the checkpoint's",
            )
        return lambda path: portrait.read_portrait(path, source=source, studio=studio, recording_pattern=pattern)
    if settings.cameras == "rig":
        common = Path(os.path.commonpath([folder.parent for folder in folders]))
        return lambda folder: turntable.read_sample(
            folder, source=source, common=common, size=size, rig=cameras, recording_pattern=pattern
        )
    return lambda folder: facelift.read_sample(folder, size=size, rig=cameras, recording_pattern=pattern)


def is_packed(source: Path, out: Path, settings: PackSettings) -> bool:
    """Whether ``out`` holds all of ``source`` already, by names, sizes and times of its files.

    Raises ``InputError`` where ``out`` was packed with other settings, and where ``source`` has nothing to pack.
    """
    settings.check()
    record = _read_record(out)
    if record is None:
        return False
    _refuse_other_settings(record, settings, out)
    if not record["complete"] or record["stamp"] != _stamp(_folders(source, settings)):
        return False
    return all((out / shard).exists() for shard in record["shards"])


def pack(
    source: Path, out: Path, settings: PackSettings, should_stop: Callable[[], bool] = lambda: False
) -> PackReport | None:
    """Pack ``source`` into ``out``; None when ``should_stop``, asked before every sample, said so.

    A second call does nothing; a call after a stop, a kill or a full disk goes on. Raises ``InputError`` as
    ``survey_for`` does (nothing is written then), where ``out`` holds anything but what these settings make of this
    source, and when the disk is full.
    """
    try:
        if is_packed(source, out, settings):
            return _report(out, _read_record(out) or {}, done_before=True)
        return _pack(source, out, settings, should_stop)
    except OSError as error:
        raise InputError(f"{error.filename or out}: {error.strerror or error}", "mend that and start again") from error


def _pack(source: Path, out: Path, settings: PackSettings, should_stop: Callable[[], bool]) -> PackReport | None:
    folders = _folders(source, settings)
    stamp = _stamp(folders)
    found = survey_for(source, settings)
    plan = _plan(found.good, settings)
    _refuse_strangers(out, plan)
    record = {
        "settings": asdict(settings),
        "source": str(source),
        "stamp": stamp,
        "complete": False,
        "shards": [str(shard) for shard in plan],
        "with_alpha": found.with_alpha,
        "samples": {name: sum(len(rows) for shard, rows in plan.items() if shard.parts[0] == name) for name in SETS},
        "remarks": _remarks(found, settings),
    }
    for shard, rows in plan.items():
        if (out / shard).exists():
            with ShardReader(out / shard) as reader:
                _refuse_other_rows(out / shard, rows, reader.ids(), reader.checksums(), found.with_alpha)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RECORD, record)
    if found.refused:
        entries = [{"sample": name, "reason": why} for name, why in found.refused]
        write_text(out / REFUSED, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))

    read_sample = _reader(source, folders, settings)
    with Progress(f"pack {source}", len(found.good)) as progress:
        for shard, rows in plan.items():
            if (out / shard).exists():
                progress.advance(len(rows))
            elif not _write_shard(out / shard, rows, found.with_alpha, settings, read_sample, progress, should_stop):
                return None
    record["complete"] = True
    write_json(out / RECORD, record)
    return _report(out, record, done_before=False)


def _plan(good: list[Candidate], settings: PackSettings) -> dict[Path, list[Candidate]]:
    """The rows of each shard, by its path in the output."""
    single = settings.cameras == SINGLE
    recordings = [candidate.recording for candidate in good]
    held_out = set() if single else held_out_recordings(recordings, settings.held_out, settings.seed)

    def set_of(candidate: Candidate) -> str:
        return SINGLE if single else "heldout" if candidate.recording in held_out else "train"

    plan = {}
    for name in SETS:
        rows = [candidate for candidate in good if set_of(candidate) == name]
        for number, start in enumerate(range(0, len(rows), settings.shard_samples)):
            plan[Path(name) / f"shard-{number:05d}.h5"] = rows[start : start + settings.shard_samples]
    return plan


def _write_shard(
    path: Path,
    rows: list[Candidate],
    with_alpha: bool,
    settings: PackSettings,
    read_sample: Callable[[Path], Sample],
    progress: Progress,
    should_stop: Callable[[], bool],
) -> bool:
    """Write the shard from where it was left; False if asked to stop before its end."""

    def read(candidate: Candidate) -> Sample:
        sample = read_sample(candidate.folder)
        if sample.checksum() != candidate.checksum:
            raise InputError(f"{candidate.folder} changed while it was packed", "start again when it is at rest")
        return sample if with_alpha else replace(sample, alpha=None)

    with ShardWriter(
        path,
        size=settings.size,
        rig=settings.rig,
        codec=settings.codec,
        with_alpha=with_alpha,
        attributes={SINGLE_ATTRIBUTE: 1} if settings.cameras == SINGLE else None,
    ) as writer:
        _refuse_other_rows(path, rows[: writer.rows], writer.ids(), writer.checksums(), with_alpha)
        progress.advance(writer.rows)
        for sample in concurrently(read, rows[writer.rows :]):
            if should_stop():
                return False
            writer.append(sample)
            progress.advance()
        writer.publish()
    return True


def _remarks(found: Survey, settings: PackSettings) -> list[str]:
    remarks = []
    without = sum(not candidate.with_alpha for candidate in found.good)
    if 0 < without < len(found.good):
        remarks.append(f"no alpha with {without} of {len(found.good)} samples, so it is packed for none")
    coloured = [c for c in found.good if not c.with_alpha and c.white_border < _WHITE_GROUND]
    if coloured:
        remarks.append(
            f"{counted(len(coloured), 'sample has', 'samples have')} neither alpha nor a white ground, which a model "
            f"would learn as part of the mouse: of {coloured[0].sample_id}'s border "
            f"{coloured[0].white_border:.0%} is white; give masks"
        )
    other = [candidate for candidate in found.good if candidate.fov_error > _FOV_TOLERANCE]
    if other:
        remarks.append(
            f"{counted(len(other), 'sample has', 'samples have')} another field of view than the rig's "
            f"{rig(settings.rig).fov:g} degrees: {other[0].sample_id} by {other[0].fov_error:.1f}"
        )
    if found.refused:
        remarks.append(f"{counted(len(found.refused), 'sample was', 'samples were')} refused: see {REFUSED}")
    return remarks


def _report(out: Path, record: dict[str, Any], done_before: bool) -> PackReport:
    # Not splitlines: names of folders may hold other separators, which JSON leaves as they are.
    lines = (out / REFUSED).read_text(encoding="utf-8").rstrip("\n").split("\n") if (out / REFUSED).exists() else []
    return PackReport(
        record["samples"]["train"],
        record["samples"]["heldout"],
        record["samples"].get(SINGLE, 0),
        [out / shard for shard in record["shards"]],
        record["with_alpha"],
        done_before,
        [(entry["sample"], entry["reason"]) for entry in map(json.loads, lines)],
        record["remarks"],
    )


def _stamp(folders: list[Path]) -> str:
    """xxh3_64 over name, size and modification time of every file of the samples."""
    hasher = xxhash.xxh3_64()
    for folder in folders:
        around = [folder, folder.parent / MASKS / f"{folder.stem}.png"] if folder.is_file() else []
        inside = (*folder.glob("*"), *(folder / "images").glob("*"), *(folder / MASKS).glob("*"))
        for path in sorted((*filter(Path.exists, around), *inside)):
            state = path.stat()
            hasher.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return hasher.hexdigest()


def _read_record(out: Path) -> dict[str, Any] | None:
    path = out / RECORD
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if {"settings", "stamp", "complete", "shards", "samples", "with_alpha", "remarks"} <= record.keys():
            return record
    except (ValueError, AttributeError):
        pass
    raise InputError(f"{path} is damaged", "pack into another folder, or delete this one")


def _refuse_other_settings(record: dict[str, Any], settings: PackSettings, out: Path) -> None:
    for key, value in asdict(settings).items():
        # a key that is younger than the record decided nothing then
        before = record["settings"].get(key, value)
        if before != value:
            there, here = (readable(str(one)) if key == "rig" else repr(one) for one in (before, value))
            raise InputError(
                f"{out} was packed with {key} {there}, not {here}", "pack into another folder, or delete this one"
            )


def _refuse_strangers(out: Path, plan: dict[Path, list[Candidate]]) -> None:
    for name in SETS:
        for path in sorted((out / name).glob("*.h5")):
            if path.relative_to(out) not in plan:
                raise InputError(
                    f"{path} was not made from this source", "pack into another folder, or delete this one"
                )


def _refuse_other_rows(
    path: Path, rows: list[Candidate], ids: list[str], checksums: list[int], with_alpha: bool
) -> None:
    """The rows at ``path`` must be those planned: what the source was when they were written."""
    mend = "pack the changed source into another folder, or delete this one"
    planned = {row.sample_id: row.checksum if with_alpha else row.checksum_without_alpha for row in rows}
    there = dict(zip(ids, checksums, strict=True))
    for sample_id in sorted({*planned, *there}):
        if sample_id not in there:
            raise InputError(f"{path} lacks the sample {sample_id}, which its source has now", mend)
        if sample_id not in planned:
            raise InputError(f"{path} has the sample {sample_id}, which its source no longer puts there", mend)
        if planned[sample_id] != there[sample_id]:
            raise InputError(f"{path} has another sample {sample_id} than its source now", mend)

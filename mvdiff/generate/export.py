"""Results as files that other programs read: .npy, PNG, or the FaceLift layout."""

import csv
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mvdiff.durable import published, sync_file, sync_folder, write_json
from mvdiff.errors import InputError
from mvdiff.facelift import PNG_LEVEL, write_sample
from mvdiff.filename import file_name
from mvdiff.generate.results import ResultStore
from mvdiff.progress import tracked
from mvdiff.shard import CorruptRow, DamagedShard, Sample
from mvdiff.threads import concurrently

MARK = "export.json"
NAMES = "ids.csv"

_WRITERS = 16
"""Threads that write: most of the time they wait for the disk to have a file."""


@dataclass(frozen=True)
class Exported:
    """What an export did."""

    written: int
    kept: int
    """Samples that were there from an earlier call."""
    refused: dict[str, str]
    """Samples that cannot be exported, and why."""


def export(store: ResultStore, out: Path, form: str, ids: Sequence[str] | None = None) -> Exported:
    """Write the samples ``ids`` (all by default) of ``store`` into the folder ``out``.

    ``form``: ``npy``, one ``ID.npy`` uint8 [6, H, W, 3] a sample; ``png``, a folder a sample with ``view_0.png`` to
    ``view_5.png`` and ``sheet.png``, all six side by side; ``facelift``, a folder a sample with pictures and cameras.
    Where an id is no file name as it stands, ``ids.csv`` says which name it has.

    Each sample appears whole; samples that are there are kept, so that the same call again goes on where one was cut
    off. A sample that is damaged is refused and the rest goes on.

    ``InputError`` for an unknown form, unknown ids, a folder that holds something else, and a disk that is full.
    """
    if form not in FORMS:
        raise InputError(f"unknown export format {form!r}", f"choose one of {', '.join(FORMS)}")
    wanted = store.ids() if ids is None else list(dict.fromkeys(ids))
    unknown = [sample_id for sample_id in wanted if sample_id not in store]
    if unknown:
        raise InputError(f"{store.path} has no sample {unknown[0]!r}", "give ids that it holds")
    names = {sample_id: file_name(sample_id, (MARK, NAMES)) for sample_id in wanted}
    suffix = ".npy" if form == "npy" else ""
    written = kept = 0
    refused: dict[str, str] = {}

    def fresh(there: set[str]) -> Iterator[tuple[Path, Sample]]:
        nonlocal kept
        for sample_id in tracked(wanted, f"export {form}", len(wanted)):
            name = names[sample_id] + suffix
            if name in there:
                kept += 1
                continue
            try:
                sample = store.sample(sample_id)
            except (CorruptRow, DamagedShard) as error:
                refused[sample_id] = error.what
                continue
            yield out / name, sample

    with _only_export(out, {"format": form, "result_set": store.identity()}):
        _note_names(out / NAMES, {one: name + suffix for one, name in names.items() if name != one})
        there = {entry.name for entry in os.scandir(out)}
        for _ in concurrently(lambda one: _write_whole(*one, FORMS[form]), fresh(there), _WRITERS):
            written += 1
        sync_folder(out)
    return Exported(written, kept, refused)


def _note_names(path: Path, names: dict[str, str]) -> None:
    """Add the file names of ids that are none themselves to the table at ``path``."""
    noted: dict[str, str] = {}
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            noted = {row["sample_id"]: row["file"] for row in csv.DictReader(file)}
    if names.items() <= noted.items():
        return
    with published(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        # All quoted, since this module leaves a lone carriage return bare otherwise.
        table = csv.writer(file, quoting=csv.QUOTE_ALL)
        table.writerow(["sample_id", "file"])
        table.writerows((noted | names).items())


def sheet(views: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """All views uint8 [6 H W 3] side by side: uint8 [H 6W 3]."""
    return np.concatenate(list(views), axis=1)


def _write_npy(path: Path, sample: Sample) -> None:
    with path.open("wb") as file:
        np.save(file, sample.views, allow_pickle=False)


def _write_png(folder: Path, sample: Sample) -> None:
    folder.mkdir()
    for k, view in enumerate(sample.views):
        Image.fromarray(view).save(folder / f"view_{k}.png", compress_level=PNG_LEVEL)
    Image.fromarray(sheet(sample.views)).save(folder / "sheet.png", compress_level=PNG_LEVEL)


FORMS: dict[str, Callable[[Path, Sample], None]] = {"npy": _write_npy, "png": _write_png, "facelift": write_sample}


def _write_whole(path: Path, sample: Sample, write: Callable[[Path, Sample], None]) -> None:
    """Write beside ``path``, sync, then give the file or folder its name; the caller syncs the folder they are in."""
    temporary = path.with_name(f".{secrets.token_hex(4)}.part")
    try:
        write(temporary, sample)
        for written in (temporary, *temporary.rglob("*")):
            if written.is_dir():
                sync_folder(written)
            else:
                sync_file(written)
        temporary.rename(path)
    except OSError as error:
        _remove(temporary)
        raise InputError(
            f"{path} cannot be written ({error.strerror or error})", "mend that and start again: what is there is kept"
        ) from error
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _only_export(out: Path, what: dict[str, str]) -> Iterator[None]:
    """Hold ``out`` for one export at a time, of one result set in one format, and clear what a killed one left."""
    mark = out / MARK
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not mark.exists())):
        raise InputError(f"{out} is there and is no export", "give a new or empty folder")
    out.mkdir(parents=True, exist_ok=True)
    if not mark.exists():
        write_json(mark, what)
    with mark.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another export is writing to {out}", "wait for it or stop it") from None
        held = json.load(lock)
        if held != what:
            raise InputError(
                f"{out} holds an export of {held['result_set']} as {held['format']}", "give a new or empty folder"
            )
        for left_over in out.glob(".*.part"):
            _remove(left_over)
        yield

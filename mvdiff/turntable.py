"""Folders of six pictures without a camera file, taken by a rig that is known.

    sample_000000/images/000.png ... 005.png      or      session/sample_000000/000.jpg ... 005.jpg

Picture k, in the order of names in which 9 comes before 10, is what the rig's camera k sees.
"""

import re
from pathlib import Path

import numpy as np

from mvdiff.errors import InputError
from mvdiff.facelift import recording_by, search, usable
from mvdiff.framing import Framing
from mvdiff.picture import common_size, framed_views, is_picture, read_masked
from mvdiff.rig import VIEWS, Rig
from mvdiff.shard.schema import Sample


def find_samples(source: Path) -> list[Path]:
    """The folders of ``source`` that hold pictures, or an ``images`` with pictures; or those that a list file names.

    As ``facelift.find_samples`` otherwise. Raises ``InputError`` when nothing is there.
    """
    found = search(source, lambda folders, files: "images" in folders or any(map(is_picture, files)))
    if not found:
        raise InputError(f"{source} holds no folders with pictures", "give a folder for each sample, of six pictures")
    return found


def read_sample(
    folder: Path, *, source: Path, common: Path, size: int | None, rig: Rig, recording_pattern: re.Pattern[str] | None
) -> Sample:
    """The sample in ``folder`` as a row of a shard: its centred square, on white, with the cameras of ``rig``.

    Its id is its path below ``source`` with - for /. Its recording is what ``recording_pattern`` finds in that; without
    a pattern the folders around it, as far as they lie below ``common``, the folder around all samples; where there are
    none it is a recording of its own. Raises ``InputError`` with the reason where the sample cannot be used.
    """
    place = folder / "images" if (folder / "images").is_dir() else folder
    paths = sorted((path for path in place.iterdir() if is_picture(path.name)), key=_natural)
    if len(paths) != VIEWS:
        raise InputError(
            f"{place} has {len(paths)} pictures", f"keep the {VIEWS} that the rig's cameras took, in their order"
        )
    parts = folder.relative_to(source).parts if folder.is_relative_to(source) else ()
    sample_id = usable("-".join(parts or [folder.resolve().name]), f"{folder} has the id")
    around = folder.parent.relative_to(common).parts if folder.parent.is_relative_to(common) else ()
    pictures = [read_masked(path) for path in paths]
    width, height = common_size(pictures, folder)
    framing = Framing(width, height, min(width, height) if size is None else size)
    views, alpha = framed_views(pictures, framing)
    return Sample(
        sample_id,
        recording_by(recording_pattern, sample_id, folder) or "-".join(around) or sample_id,
        views,
        alpha,
        rig.w2c(),
        rig.intrinsics(framing.size),
        np.array(rig.azimuth, np.float32),
        np.array(rig.elevation, np.float32),
    )


def _natural(path: Path) -> list[tuple[int, str]]:
    """Numbers in names by their value, all else by its letters."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]

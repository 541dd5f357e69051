"""Single pictures, of whose subject there is no other view: data to generate from, and nothing else.

pictures/monday/m1.jpg    pictures/monday/masks/m1.png
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from mvdiff.errors import InputError
from mvdiff.facelift import listed, recording_by
from mvdiff.model.index import read_index, stored_settings
from mvdiff.picture import MASKS, is_picture, read_masked
from mvdiff.placement import Placement, framed
from mvdiff.rig import VIEWS, Rig
from mvdiff.shard.schema import Sample


@dataclass(frozen=True)
class Studio:
    """What a checkpoint was trained to see: pictures are made to look so."""

    rig: Rig
    size: int
    """Height and width in pixels."""
    placement: Placement

    @classmethod
    def of(cls, checkpoint: Path) -> Self:
        """Of the checkpoint in that folder; ``InputError`` where there is none."""
        model = stored_settings(checkpoint)
        return cls(model.cameras, model.size, Placement.read(read_index(checkpoint).get("placement")))


def find_pictures(source: Path) -> list[Path]:
    """The pictures in ``source`` at any depth, masks left out, or those that a list file names.

    Raises ``InputError`` when nothing is there.
    """
    if source.is_file() and not is_picture(source.name):
        return listed(source)
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"{source} does not exist", "give a folder of pictures, or a file that lists some")
    found = []
    for folder, below, files in os.walk(source):
        found += [Path(folder, name) for name in files if is_picture(name)]
        below[:] = [name for name in below if not name.startswith(".") and name != MASKS]
    if not found:
        raise InputError(f"{source} holds no pictures", "give a folder that holds PNG, JPEG or WebP files")
    return sorted(found)


def read_portrait(path: Path, *, source: Path, studio: Studio, recording_pattern: re.Pattern[str] | None) -> Sample:
    """The picture ``path`` as a sample of which only view 0 is known: the others are white.

    It is framed as ``placement.framed`` does, by its alpha or mask where it has one. Its id is its path below
    ``source`` with - for / and without the ending. Raises ``InputError`` where it cannot be used.
    """
    parts = path.relative_to(source).parent.parts if path.is_relative_to(source) and path != source else ()
    sample_id = "-".join((*parts, path.stem))
    views = np.full((VIEWS, studio.size, studio.size, 3), 255, np.uint8)
    try:
        views[0] = framed(read_masked(path), studio.size, studio.placement)
    except InputError as error:
        where = "" if str(path.parent) in error.what else f"{path}: "
        raise InputError(f"{where}{error.what}", error.mend) from None
    return Sample(
        sample_id,
        recording_by(recording_pattern, sample_id, path) or sample_id,
        views,
        None,
        studio.rig.w2c(),
        studio.rig.intrinsics(studio.size),
        np.array(studio.rig.azimuth, np.float32),
        np.array(studio.rig.elevation, np.float32),
    )

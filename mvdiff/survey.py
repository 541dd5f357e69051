"""What can be packed from a folder of pictures, and what cannot and why, found out before anything is written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvdiff.errors import InputError, counted
from mvdiff.evaluate.foreground import WHITE_DISTANCE
from mvdiff.progress import Progress
from mvdiff.rig import Rig, angle_between, field_of_view
from mvdiff.shard.schema import Sample
from mvdiff.threads import concurrently


@dataclass(frozen=True)
class Candidate:
    """A sample that can be packed."""

    folder: Path
    sample_id: str
    recording: str
    checksum: int
    """Of its row with alpha where it has some."""
    checksum_without_alpha: int
    with_alpha: bool
    white_border: float
    """Of the view where it is least: the share of pixels at the picture's edges that are as good as white."""
    fov_error: float
    """Largest difference of a view's field of view from the rig's, in degrees."""


@dataclass(frozen=True)
class Survey:
    """What can be packed from a source, and what cannot."""

    good: list[Candidate]
    """By sample id, all different."""
    refused: list[tuple[str, str]]
    """Sample folder and reason."""

    @property
    def with_alpha(self) -> bool:
        """Whether every good sample has alpha; only then is it packed."""
        return all(candidate.with_alpha for candidate in self.good)


def survey(
    source: Path, folders: Sequence[Path], read_sample: Callable[[Path], Sample], rig: Rig, strict: bool
) -> Survey:
    """Read every sample of ``source``, those in ``folders``, with ``read_sample``.

    Raises ``InputError`` where no sample is good, and, if ``strict``, for the first one that is refused.
    """

    def read(folder: Path) -> Candidate | InputError:
        try:
            return _candidate(folder, read_sample(folder), rig)
        except InputError as error:
            return error
        except OSError as error:
            return InputError(f"{error.filename or folder} cannot be read ({error.strerror})", "make it readable")

    good: dict[str, Candidate] = {}
    refused: list[tuple[str, InputError]] = []
    with Progress(f"check {source}", len(folders)) as progress:
        for folder, found in zip(folders, concurrently(read, folders), strict=True):
            if isinstance(found, Candidate) and found.sample_id in good:
                other = good[found.sample_id].folder
                found = InputError(f"{folder} and {other} have the same id {found.sample_id}", "give each its own")
            if isinstance(found, InputError):
                refused.append((str(folder), found))
            else:
                good[found.sample_id] = found
            progress.advance()
    if refused and (strict or not good):
        error = refused[0][1]
        more = f" ({counted(len(refused) - 1, 'more sample is', 'more samples are')} bad)" if len(refused) > 1 else ""
        hint = "; or leave bad samples out with strict=false" if good else ""
        raise InputError(error.what, f"{error.mend}{hint}{more}")
    return Survey([good[sample_id] for sample_id in sorted(good)], [(name, str(error)) for name, error in refused])


def _candidate(folder: Path, sample: Sample, rig: Rig) -> Candidate:
    fov = np.stack([field_of_view(sample.intrinsics, sample.size, axis) for axis in (0, 1)])
    return Candidate(
        folder,
        sample.sample_id,
        sample.recording,
        sample.checksum(),
        replace(sample, alpha=None).checksum(),
        sample.alpha is not None,
        _white_border(sample.views),
        float(angle_between(fov, rig.fov).max()),
    )


def _white_border(views: NDArray[np.uint8]) -> float:
    """The least share of a view's outermost pixels that are as good as white, of ``views`` uint8 [V, H, H, 3]."""
    white = views.min(-1) >= 255 - WHITE_DISTANCE
    edges = np.concatenate([white[:, 0], white[:, -1], white[:, :, 0], white[:, :, -1]], 1)
    return float(edges.mean(1).min())

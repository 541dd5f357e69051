"""The FaceLift folder layout, read with all its variants, and written.

    sample_000000/opencv_cameras.json    {id, frames: [{w, h, fx, fy, cx, cy, w2c, file_path, view_id} x 6]}
    sample_000000/images/cam_000.png ... cam_005.png    RGB or RGBA with straight alpha
    sample_000000/masks/cam_000.png ...                 where pictures have no alpha: 255 on the subject

``w2c`` is 4x4, row-major, with OpenCV axes, in a world with Z up. Of the keys only ``frames``, ``w2c`` and one focal
length a frame are needed.
"""

import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mvdiff.errors import InputError
from mvdiff.framing import Framing
from mvdiff.picture import MASKS, common_size, framed_views, read_masked
from mvdiff.rig import VIEWS, Rig, angles, camera_centre
from mvdiff.shard.schema import Sample

CAMERAS = "opencv_cameras.json"
RECORDING_KEYS = ("recording", "session", "animal")
"""Keys of the camera file that may name the recording; the first that is there counts."""

_NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9._-]{1,128}")
"""What names in folders of pictures may be: narrower than a shard's, since people name files and folders by them."""
PNG_LEVEL = 1
"""Compression of written pictures: five times as fast as zlib's usual 6 on generated views, and a fifth larger."""

_MAX_JSON = 4 << 20
_ROTATION_TOLERANCE = 1e-2
_FACING_ORIGIN = 0.7
"""Cosine between a camera's forward axis and the direction to the origin, below which axes must be of another kind."""
_CENTRE_TOLERANCE = 0.25
"""How far the principal point may lie from the picture's centre, as a share of the picture."""


def find_samples(source: Path) -> list[Path]:
    """The sample folders of ``source``: a folder of samples, one sample, or a list file naming a folder a line.

    A folder is a sample when it holds ``opencv_cameras.json`` or ``images``; folders are searched to any depth, hidden
    ones passed over. Lines of a list file are relative to it; empty ones and those that begin with # are passed over.
    Raises ``InputError`` when nothing is there.
    """
    found = search(Path(source), lambda folders, files: CAMERAS in files or "images" in folders)
    if not found:
        raise InputError(
            f"{source} holds no samples",
            f"give a folder of folders with {CAMERAS} and images, or pack with cameras=rig",
        )
    return found


def search(source: Path, is_sample: Callable[[list[str], list[str]], bool]) -> list[Path]:
    """The folders that the list file ``source`` names, or those below the folder ``source`` that are samples.

    Args:
        is_sample: is given the names of the folders and of the files in a folder.

    Raises:
        InputError: there is neither a list nor a folder.
    """
    if source.is_file():
        return listed(source)
    if not source.is_dir():
        raise InputError(f"{source} does not exist", "give a folder of samples, or a file that lists some")
    found = []
    seen = set()
    for folder, below, files in os.walk(source, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            below.clear()
            continue
        seen.add(real)
        if is_sample(below, files):
            found.append(Path(folder))
            below.clear()
        below[:] = sorted(name for name in below if not name.startswith(".") and name != MASKS)
    return sorted(found)


def listed(source: Path) -> list[Path]:
    """The folders that the list file ``source`` names; ``InputError`` where it is none, or names none."""
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{source} is no list of samples", "give a text file with one sample folder a line") from None
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise InputError(f"{source} lists no samples", "write one sample folder a line into it")
    return list(dict.fromkeys(source.parent / name for name in names))


def read_sample(
    folder: Path,
    *,
    size: int | None = None,
    rig: Rig | None = None,
    recording_pattern: re.Pattern[str] | None = None,
) -> Sample:
    """The sample in ``folder`` as a row of a shard: its centred square, on white, alpha beside it where known.

    ``size``: resize to so many pixels, not at all where None. ``rig``: cameras that must be these, any where None.
    ``recording_pattern``: where given, what it finds in the sample id (its first group if it has one) is the recording;
    otherwise the camera file's ``recording``, ``session`` or ``animal``; otherwise every sample is a recording of its
    own. Alpha, or the mask in the folder ``masks``, is kept as ``picture.framed_views`` says. Raises ``InputError``
    with the reason where the sample cannot be used.
    """
    path = folder / CAMERAS
    content = _read_json(path)
    frames = [_Frame.parse(entry, f"{path} frame {k}") for k, entry in enumerate(_ordered(content, path))]
    if len(frames) != VIEWS:
        raise InputError(f"{path} has {len(frames)} views", f"give all {VIEWS}")
    sample_id = _sample_id(content, folder)
    pictures = [read_masked(_locate(frame, k, folder)) for k, frame in enumerate(frames)]
    width, height = common_size(pictures, folder)

    w2c = np.stack([frame.w2c for frame in frames])
    # Rounded to what float32 matrices can tell, so that no azimuth of 0 comes out as 359.99998.
    azimuth, elevation = (np.round(angle, 4) + 0.0 for angle in angles(w2c)[:2])
    azimuth %= 360
    if rig is not None and (difference := rig.differs(azimuth, elevation)):
        raise InputError(
            f"{path} has other cameras than the rig {rig.name!r}: {difference}",
            "choose the rig that took the pictures, or put the views in its order",
        )
    framing = Framing(width, height, min(width, height) if size is None else size)
    intrinsics = framing.intrinsics(np.stack([frame.intrinsics(width, height) for frame in frames]))
    views, alpha = framed_views(pictures, framing)
    return Sample(
        sample_id,
        _recording(content, sample_id, recording_pattern, path),
        views,
        alpha,
        w2c.astype(np.float32),
        intrinsics.astype(np.float32),
        azimuth.astype(np.float32),
        elevation.astype(np.float32),
    )


@dataclass(frozen=True)
class _Frame:
    """One entry of ``frames``, checked."""

    where: str
    w2c: NDArray[np.float64]
    focal: tuple[float, float]
    centre: tuple[float | None, float | None]
    size: tuple[float | None, float | None]
    file_path: str | None

    @classmethod
    def parse(cls, entry: dict[str, Any], where: str) -> "_Frame":
        """Check everything that can be checked without the picture; ``InputError`` otherwise."""
        if "w2c" not in entry:
            raise InputError(f"{where} lacks w2c", "add the 4x4 world-to-camera matrix, row-major, OpenCV axes")
        numbers = {key: _number(entry, key, where) for key in ("fx", "fy", "cx", "cy", "w", "h")}
        fx, fy = numbers["fx"] or numbers["fy"], numbers["fy"] or numbers["fx"]
        if fx is None or fy is None or min(fx, fy) <= 0:
            raise InputError(f"{where} lacks a positive focal length", "add fx (and fy, where it differs) in pixels")
        file_path = entry.get("file_path")
        if file_path is not None and not isinstance(file_path, str):
            raise InputError(f"{where} has a file_path that is no string", "name the picture")
        return cls(
            where,
            _rigid(entry["w2c"], where),
            (fx, fy),
            (numbers["cx"], numbers["cy"]),
            (numbers["w"], numbers["h"]),
            file_path,
        )

    def intrinsics(self, width: int, height: int) -> NDArray[np.float64]:
        """K [3, 3] for a picture of ``width`` x ``height``; ``InputError`` if it was made for another size."""
        centre = []
        for name, side, declared, c in zip("xy", (width, height), self.size, self.centre, strict=True):
            if declared is not None and declared != side:
                kind = "width" if name == "x" else "height"
                raise InputError(
                    f"{self.where} is for {kind} {declared:g}, and its picture has {side}",
                    "give the picture the cameras were written for, or scale fx, fy, cx, cy, w, h to it",
                )
            c = side / 2 if c is None else c
            if abs(c - side / 2) > _CENTRE_TOLERANCE * side:
                raise InputError(
                    f"{self.where} has c{name} {c:g} for a picture of {side} pixels", "scale K to the picture's size"
                )
            centre.append(c)
        return np.array([[self.focal[0], 0, centre[0]], [0, self.focal[1], centre[1]], [0, 0, 1]])


def _number(entry: dict[str, Any], key: str, where: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{where} has {key} {str(value)[:40]!r}", "give a number")
    return number


def _rigid(value: Any, where: str) -> NDArray[np.float64]:
    """``w2c`` [4, 4] of a camera that looks at the origin."""
    mend = "write a rigid world-to-camera matrix, 4x4, row-major, OpenCV axes (x right, y down, z forward)"
    try:
        w2c = np.array(value, np.float64)
    except (ValueError, TypeError, OverflowError):
        raise InputError(f"{where} has a w2c that is no matrix of numbers", mend) from None
    if w2c.shape != (4, 4) or not np.isfinite(w2c).all():
        raise InputError(f"{where} has a w2c of shape {list(w2c.shape)}, or not finite", mend)
    rotation = w2c[:3, :3]
    rigid = np.allclose(rotation @ rotation.T, np.eye(3), atol=_ROTATION_TOLERANCE) and np.linalg.det(rotation) > 0
    if not rigid or not np.allclose(w2c[3], [0, 0, 0, 1], atol=1e-6):
        raise InputError(f"{where} has a w2c that is no rigid motion", mend)
    centre = camera_centre(w2c)
    distance = float(np.linalg.norm(centre))
    if distance < 1e-6 or -(rotation[2] @ centre) / distance < _FACING_ORIGIN:
        raise InputError(f"{where} has a w2c that does not look at the origin", mend)
    return w2c


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path} does not exist", "give the sample its camera file, or pack with cameras=rig")
    if path.stat().st_size > _MAX_JSON:
        raise InputError(f"{path} has {path.stat().st_size} bytes", f"give a camera file of at most {_MAX_JSON}")
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({' '.join(str(error).split())})", "write it again") from None
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list):
        raise InputError(f"{path} has no list of frames", f"list the {VIEWS} cameras under the key 'frames'")
    return content


def _ordered(content: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """The frames by ``view_id`` where they have one, as they stand otherwise."""
    frames = content["frames"]
    for k, frame in enumerate(frames):
        if not isinstance(frame, dict):
            raise InputError(f"{path} frame {k} is no JSON object", "write its keys in braces")
    numbers = [frame["view_id"] for frame in frames if frame.get("view_id") is not None]
    if not numbers:
        return frames
    if len(set(map(str, numbers))) < len(frames) or not all(isinstance(number, int) for number in numbers):
        raise InputError(f"{path} has the view_ids {numbers}", "number all views differently, or none")
    return sorted(frames, key=lambda frame: frame["view_id"])


def _sample_id(content: dict[str, Any], folder: Path) -> str:
    value = content.get("id")
    sample_id = folder.resolve().name if value is None else str(value)
    return usable(sample_id, f"{folder} has the id")


def usable(name: str, where: str) -> str:
    """``name``, if people can name a file so; ``InputError`` beginning with ``where`` otherwise."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{where} {name[:200]!r}, which is no name for files",
            "give 1 to 128 of the characters A-Z a-z 0-9 . _ -, and no '..'",
        )
    return name


def _recording(content: dict[str, Any], sample_id: str, recording_pattern: re.Pattern[str] | None, path: Path) -> str:
    if found := recording_by(recording_pattern, sample_id, path):
        return found
    for key in RECORDING_KEYS:
        if content.get(key) is not None:
            return usable(str(content[key]), f"{path} has the {key}")
    return sample_id


def recording_by(pattern: re.Pattern[str] | None, sample_id: str, path: Path) -> str | None:
    """What ``pattern`` finds in the id, its first group if it has one; None without a pattern.

    ``path`` is what is wrong where it finds nothing, which is an ``InputError``.
    """
    if pattern is None:
        return None
    match = pattern.search(sample_id)
    found = (match[1] if pattern.groups else match[0]) if match else None
    if not found:
        raise InputError(f"{path}: the id {sample_id} has no recording by {pattern.pattern!r}", "widen the pattern")
    return found


def _locate(frame: _Frame, view: int, folder: Path) -> Path:
    """The picture of a frame, always inside ``folder``."""
    named = PurePosixPath(frame.file_path or f"images/cam_{view:03d}.png")
    if ".." in named.parts:
        raise InputError(
            f"{frame.where} has the file_path {frame.file_path!r}", "name a file inside the sample's folder"
        )
    inside = (
        [folder / "images" / named.name] if named.is_absolute() else [folder / named, folder / "images" / named.name]
    )
    for path in inside:
        if path.is_file():
            return path
    raise InputError(f"{inside[0]} does not exist", "give the sample all its pictures")


def write_sample(folder: Path, sample: Sample) -> None:
    """Write ``sample`` into the new folder ``folder``.

    Pictures are RGBA where alpha is known, and ``read_sample`` gives the same views again, except where they are darker
    than white seen through that alpha can be. Raises ``InputError`` when ``folder`` exists.
    """
    if folder.exists():
        raise InputError(f"{folder} exists", "write to a folder that does not, or delete it")
    (folder / "images").mkdir(parents=True)
    frames = []
    for view in range(VIEWS):
        k = sample.intrinsics[view].tolist()
        name = f"images/cam_{view:03d}.png"
        Image.fromarray(_straight(sample, view)).save(folder / name, compress_level=PNG_LEVEL)
        frames.append(
            {
                "w": sample.size, "h": sample.size, "fx": k[0][0], "fy": k[1][1], "cx": k[0][2], "cy": k[1][2],
                "w2c": sample.w2c[view].tolist(), "file_path": name, "view_id": view,
            }
        )  # fmt: skip
    content = {"id": sample.sample_id, "recording": sample.recording, "frames": frames}
    (folder / CAMERAS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _straight(sample: Sample, view: int) -> NDArray[np.uint8]:
    """RGB, or straight RGBA, that composes on white to ``sample.views[view]``."""
    rgb = sample.views[view]
    if sample.alpha is None:
        return rgb
    alpha = sample.alpha[view][..., None]
    colour = 255 - (255.0 - rgb) * 255 / np.maximum(alpha, 1)
    return np.concatenate([np.rint(colour).clip(0, 255).astype(np.uint8), alpha], -1)

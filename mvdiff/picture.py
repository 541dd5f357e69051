"""Picture files as arrays, with the mask that lies beside a picture in the place of its alpha."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mvdiff.errors import InputError
from mvdiff.framing import Framing, on_white

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MASKS = "masks"
"""Folder of a sample that may hold a mask for each picture: its name with .png, 255 on the subject."""

_FORMATS = ("PNG", "JPEG", "WEBP")
_MAX_FILE = 256 << 20
_MAX_SIDE = 8192


def is_picture(name: str) -> bool:
    """Whether a file of that name is taken for a picture."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def read_picture(path: Path) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] or, with straight alpha, [H, W, 4]; ``InputError`` where it is no whole picture."""
    picture = _opened(path)
    if picture.mode.startswith("I"):
        grey = (np.asarray(picture).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, -1)
    with_alpha = "A" in picture.getbands() or "transparency" in picture.info
    return np.array(picture.convert("RGBA" if with_alpha else "RGB"))


def read_masked(path: Path) -> NDArray[np.uint8]:
    """As ``read_picture``, alpha being the mask in the folder ``masks`` of the sample where there is one.

    ``path`` lies in the sample's folder or in its ``images``. Raises ``InputError`` for a mask of another size, and for
    one that marks nothing.
    """
    picture = read_picture(path)
    sample = path.parent.parent if path.parent.name == "images" else path.parent
    of_mask = sample / MASKS / f"{path.stem}.png"
    if not of_mask.is_file():
        return picture
    mask = np.array(_opened(of_mask).convert("L"))
    if mask.shape != picture.shape[:2]:
        (height, width), (high, wide) = mask.shape, picture.shape[:2]
        raise InputError(f"{of_mask} is {width}x{height}, its picture {wide}x{high}", "give it the picture's size")
    if mask.max() < 128:
        raise InputError(f"{of_mask} marks nothing", "write 255 on the subject and 0 elsewhere")
    return np.dstack([picture[..., :3], mask])


def framed_views(
    pictures: list[NDArray[np.uint8]], framing: Framing
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Views uint8 [V, S, S, 3] on white and alpha uint8 [V, S, S] of pictures of one size, each with or without alpha.

    Alpha is None unless all have some, and some of it is not 255: an alpha that hides nothing knows nothing.
    """
    alphas = [picture[..., 3] for picture in pictures if picture.shape[2] == 4]
    known = len(alphas) == len(pictures) and any((alpha < 255).any() for alpha in alphas)
    rgb = [on_white(picture) if picture.shape[2] == 4 else picture for picture in pictures]
    return (
        np.stack([framing.picture(one) for one in rgb]),
        np.stack([framing.picture(alpha) for alpha in alphas]) if known else None,
    )


def common_size(pictures: list[NDArray[np.uint8]], folder: Path) -> tuple[int, int]:
    """Width and height of the pictures of the sample ``folder``; ``InputError`` where they differ."""
    sizes = {picture.shape[1::-1] for picture in pictures}
    if len(sizes) > 1:
        found = " and ".join(f"{w}x{h}" for w, h in sorted(sizes))
        raise InputError(f"{folder} mixes pictures of {found}", "give six of one size")
    ((width, height),) = sizes
    return width, height


def _opened(path: Path) -> Image.Image:
    if path.stat().st_size > _MAX_FILE:
        raise InputError(f"{path} has {path.stat().st_size} bytes", f"give a picture of at most {_MAX_FILE}")
    content = path.read_bytes()
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            if max(picture.size) > _MAX_SIDE:
                raise InputError(f"{path} is {picture.width}x{picture.height}", f"shrink it to at most {_MAX_SIDE}")
            picture.verify()
        whole = Image.open(io.BytesIO(content), formats=_FORMATS)
        whole.load()
        return whole
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        raise InputError(f"{path} is no whole picture ({' '.join(str(error).split())})", "write it again") from None

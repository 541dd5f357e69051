"""Weights on disk, told from their headers alone: safetensors files, one a component or several beside an index.

The safetensors format: eight bytes of length (little endian), a JSON object of that length, and the tensors' bytes
without a gap. https://huggingface.co/docs/safetensors, "Format"
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Self

from mvdiff.errors import InputError
from mvdiff.model.pretrained.jsonfile import LFS_POINTER, JsonFile, lfs_pointer, shown

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"
"""What the two libraries call a component's weight file, without the suffix."""

_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64}
_BITS |= dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
_BITS |= dict.fromkeys(("U16", "I16", "F16", "BF16"), 16)
_BITS |= dict.fromkeys(("U32", "I32", "F32"), 32)
_BITS |= dict.fromkeys(("U64", "I64", "F64"), 64)

_LENGTH = 8
_MAX_HEADER = 100_000_000
_MAX_RANK = 8
_SPOT = 1 << 12
_AGAIN = "complete the download, or give an undamaged copy"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


@dataclass(frozen=True)
class Stored:
    """What a header says of one tensor."""

    dtype: str
    """As the format spells it: F32, BF16, ..."""
    shape: tuple[int, ...]
    start: int = field(compare=False)
    """Where its data begin, counted from the end of the header."""
    stop: int = field(compare=False)


@dataclass(frozen=True)
class WeightFile:
    """One safetensors file whose header is sound and whose length is what the header asks for."""

    path: Path
    size: int
    data_start: int
    """Where the header ends."""
    tensors: Mapping[str, Stored]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the header of ``path``; ``InputError`` unless it and the file's length are sound."""
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(0)
                text = _header(path, file, size)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror})", "make it readable") from None
        tensors, length = _parsed(path, text)
        data_start = _LENGTH + len(text)
        if size < data_start + length:
            raise InputError(f"{path} is cut off: {size} of {data_start + length} bytes are there", _AGAIN)
        if size > data_start + length:
            raise InputError(f"{path} is {size - data_start - length} bytes longer than its header says", _AGAIN)
        return cls(path, size, data_start, tensors)

    def sample(self) -> Iterator[bytes]:
        """The header, and the first, middle and last 4 KiB of every tensor."""
        with self.path.open("rb") as file:
            yield file.read(self.data_start)
            for tensor in sorted(self.tensors.values(), key=lambda tensor: tensor.start):
                last = max(tensor.start, tensor.stop - _SPOT)
                for start in sorted({tensor.start, (tensor.start + last) // 2, last}):
                    file.seek(self.data_start + start)
                    yield file.read(min(_SPOT, tensor.stop - start))


@dataclass(frozen=True)
class Weights:
    """The weights of one component."""

    path: Path
    """The file, or the index of several."""
    files: tuple[WeightFile, ...]

    @classmethod
    def find(cls, folder: Path, stem: str) -> Self:
        """The weights in ``folder``, called ``stem``; ``InputError`` unless they are there, whole, and no pickles."""
        path, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
        there = [one for one in (path, index) if _is_there(one)]
        if len(there) == 2:
            raise InputError(f"{folder} holds both {path.name} and {index.name}", "delete the one that is not meant")
        if not there:
            raise _no_weights(folder, stem)
        if there == [path]:
            return cls(path, (WeightFile.read(path),))
        return cls(index, _read_shards(JsonFile.read(index)))

    @cached_property
    def tensors(self) -> dict[str, Stored]:
        """What all headers say."""
        return {name: one for file in self.files for name, one in file.tensors.items()}


def _header(path: Path, file: BinaryIO, size: int) -> bytes:
    start = file.read(len(LFS_POINTER))
    if not start:
        raise InputError(f"{path} is empty", _AGAIN)
    if start == LFS_POINTER:
        raise lfs_pointer(path)
    length = int.from_bytes(start[:_LENGTH], "little")
    if size < _LENGTH:
        raise InputError(f"{path} is cut off after {size} bytes", _AGAIN)
    if length > _MAX_HEADER or start[_LENGTH : _LENGTH + 1] not in (b"{", b""):
        raise InputError(f"{path} is no safetensors file", "give one; nothing else is read")
    if _LENGTH + length > size:
        raise InputError(f"{path} is cut off: {size} bytes, of which its header alone takes {_LENGTH + length}", _AGAIN)
    file.seek(_LENGTH)
    return file.read(length)


def _parsed(path: Path, text: bytes) -> tuple[dict[str, Stored], int]:
    """What the header says of each tensor, and how many bytes all of them take."""
    try:
        pairs = json.loads(text.decode(), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise _broken(path, str(error)) from None
    if not isinstance(pairs, dict):
        raise _broken(path, "no JSON object")
    notes = pairs.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise _broken(path, "__metadata__ is no object of strings")
    tensors: dict[str, Stored] = {}
    spans = [(0, 0)]
    for name, entry in pairs.items():
        match entry:
            case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, stop]} if dtype in _BITS:
                pass
            case _:
                raise _broken(path, f"the entry of {shown(name)} makes no sense")
        if len(shape) > _MAX_RANK or any(type(one) is not int or one < 0 for one in (start, stop, *shape)):
            raise _broken(path, f"the entry of {shown(name)} makes no sense")
        if math.prod(shape) * _BITS[dtype] != 8 * (stop - start):
            raise _broken(path, f"{shown(name)} takes {stop - start} bytes, which is not what {dtype} {shape} takes")
        tensors[name] = Stored(dtype, tuple(shape), start, stop)
        spans.append((start, stop))
    for before, after in pairwise(sorted(spans)):
        if after[0] != before[1]:
            raise _broken(path, "its tensors overlap or leave a gap")
    return tensors, max(stop for _, stop in spans)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name twice")
    return values


def _broken(path: Path, why: str) -> InputError:
    return InputError(f"{path} has a broken header ({why})", "give an undamaged copy")


def _is_there(path: Path) -> bool:
    if path.is_file():
        return True
    if path.is_symlink():
        raise InputError(f"{path} links to a file that is gone", _AGAIN)
    return False


def _read_shards(index: JsonFile) -> tuple[WeightFile, ...]:
    places = index.values.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise index.wrong("weight_map", "an object of tensor names and file names")
    for name in places.values():
        # The name is joined to a path below: nothing but a file of this folder may be read.
        if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
            raise InputError(f"{index.path} names a file {shown(name)}", "plain names of safetensors files are wanted")
    files = []
    for name in sorted(set(places.values())):
        path = index.path.with_name(name)
        if not _is_there(path):
            raise InputError(f"{path} is missing, which {index.path.name} names", _AGAIN)
        file = WeightFile.read(path)
        listed = {tensor for tensor, place in places.items() if place == name}
        if odd := sorted(listed ^ file.tensors.keys()):
            where = f"{index.path.name} alone" if odd[0] in listed else f"{name} alone"
            raise InputError(f"{index.path} and its files disagree: {shown(odd[0])} is in {where}", _AGAIN)
        files.append(file)
    return tuple(files)


def _no_weights(folder: Path, stem: str) -> InputError:
    wanted = f"{stem}.safetensors"
    try:
        names = sorted(path.name for path in folder.iterdir() if path.name.isprintable())
        # Where huggingface_hub keeps a file while it downloads it into a given folder.
        waiting = any((folder.parent / ".cache/huggingface/download" / folder.name).glob("*.incomplete"))
    except OSError as error:
        return InputError(f"{folder} cannot be read ({error.strerror})", "make it readable")
    if waiting or any(name.endswith(".incomplete") for name in names):
        return InputError(f"{folder} has no {wanted}, only a part of a download", "complete the download")
    if shards := [name for name in names if re.fullmatch(rf"{stem}-\d+-of-\d+\.safetensors", name)]:
        return InputError(f"{folder} holds {shards[0]} and no {wanted}.index.json", "complete the download")
    if variants := [name for name in names if name.startswith(f"{stem}.") and ".safetensors" in name]:
        return InputError(f"{folder} holds {variants[0]} only, a variant", f"get {wanted} itself")
    if pickles := [name for name in names if name.endswith(_PICKLES)]:
        return InputError(
            f"{folder} holds {pickles[0]}, a pickle, and no {wanted}",
            "nothing is unpickled; convert it with save_pretrained(safe_serialization=True)",
        )
    return InputError(f"{folder} has no {wanted}", "complete the download, or give a complete copy of the model")

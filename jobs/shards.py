"""The shards that a job is given: looked at before anything is queued."""

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from mvdiff.errors import InputError, counted, one_line
from mvdiff.shard import ShardIndex, verify

_TOLD = 10
"""Unreadable shards that are named before the rest is only counted."""


def check_shards(data: DictConfig) -> ShardIndex:
    """Refuse shards that a job could not read; makes ``data.path`` absolute, for the job runs elsewhere.

    Raises:
        InputError: nothing there, not shards of ours, or a row that fails its checksum.
    """
    index = ShardIndex.scan(_path(data))
    _verify(data)
    return index


def check_readable(data: DictConfig, chosen: Sequence[str] | None) -> ShardIndex:
    """As ``check_shards``, of the shards that ``chosen`` names; those that cannot be read are left out.

    Raises:
        InputError: nothing there, none that can be read, or a row that fails its checksum.
    """
    index = ShardIndex.scan_readable(_path(data), chosen)
    _verify(data)
    return index


def check_coming(data: DictConfig, coming: Sequence[Path]) -> None:
    """As ``check_shards``, unless a job that runs before will write ``data.path``, below one of ``coming``."""
    path = _path(data)
    if not any(path.is_relative_to(folder) for folder in coming):
        check_shards(data)


def tell_left_out(index: ShardIndex, unknown: Sequence[str]) -> None:
    """Name on standard error the shards that ``index`` lacks, and the asked ids that none of its shards holds."""
    whys = list(index.unreadable.values())
    lines = whys[:_TOLD] + ([f"{counted(len(whys) - _TOLD, 'more shard')} that cannot be read"] if whys[_TOLD:] else [])
    if unknown:
        more = f" and {counted(len(unknown) - 1, 'more id')}" if len(unknown) > 1 else ""
        lines.append(f"sample {unknown[0][:200]!r}{more}, in no shard that can be read")
    for line in lines:
        print(f"mvdiff: left out: {one_line(line)}", file=sys.stderr)


def _path(data: DictConfig) -> Path:
    if data.path is None:
        raise InputError("data=null names no shards", "give data=PATH")
    path = Path(data.path).expanduser().absolute()
    data.path = str(path)
    return path


def _verify(data: DictConfig) -> None:
    if not data.verify:
        return
    bad = verify(Path(data.path)).bad
    if bad:
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise InputError(f"{bad[0]}{more}", f"make the shard again; mvdiff verify {data.path} lists all that is bad")

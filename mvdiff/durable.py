"""Files that appear whole or not at all, and stay after a power cut."""

import errno
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable: a rename is only safe once its folder is synced."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make the bytes of a closed file durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link_new(temporary: Path, path: Path) -> bool:
    """Give the closed file ``temporary`` the second name ``path`` unless that is taken; True if this call gave it.

    Of any number of callers on any number of nodes one gets True: a hard link is made or refused by the file server
    itself, on NFS and Lustre as on a local disk. The reply can be lost on NFS and the repeated call be refused although
    the first one held, so the link count decides, as open(2) advises under O_EXCL. Both lie in the same file system;
    ``temporary`` has no other name before and stays. Nothing is synced.
    """
    try:
        os.link(temporary, path)
    except OSError as error:
        if temporary.stat().st_nlink > 1:
            return True
        if isinstance(error, FileExistsError):
            return False
        raise
    return True


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; what is written there becomes ``path`` if the block succeeds.

    A reader of ``path`` sees the old file or the whole new one, never a part. The temporary file is removed when the
    block raises.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        sync_file(temporary)
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def alone(folder: Path, wait: bool = True) -> Iterator[None]:
    """Hold ``folder`` against whoever holds it in the same way; where the file system has no locks, against nobody.

    Raises:
        BlockingIOError: somebody holds it, and there is to be no ``wait``.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            pass
        yield
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Publish ``text`` (UTF-8) under ``path``."""
    with published(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Publish ``content`` as indented JSON with sorted keys under ``path``."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def disk_is_full(error: BaseException) -> bool:
    """Whether ``error``, or what it was raised from, says that a disk or a quota has no room left."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)

"""Whose hands a file is in: what is unpickled or imported from it runs as whoever reads it."""

import os
import stat
from pathlib import Path

from slurm.errors import RequestError

_WRITE = stat.S_IWGRP | stat.S_IWOTH


def refuse_foreign(path: Path, around: int = 0) -> None:
    """Nothing, if ``path`` and the ``around`` folders above it are this user's own and nobody else can write to them.

    Below a folder with the sticky bit (/tmp) nobody can exchange what is another's, so that nothing above it is asked.

    Raises:
        RequestError: which of them is not.
    """
    for one in (path, *path.parents[:around]):
        found = one.stat()
        if one != path and found.st_mode & stat.S_ISVTX and found.st_uid in (0, os.getuid()):
            return
        if found.st_uid != os.getuid():
            raise RequestError(f"{one} belongs to another user, whose code would run", "choose another run= or runs=")
        if found.st_mode & _WRITE:
            raise RequestError(
                f"{one} can be written to by others (mode {stat.S_IMODE(found.st_mode):04o}), whose code would run",
                f"chmod go-w {one}",
            )

"""A folder for a process's temporary files on its node's own disk."""

import atexit
import fcntl
import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from slurm.place import Place

SCRATCH = "MVDIFF_SCRATCH"
"""Names the folder in which processes make theirs; ``$NAME`` in it stands for a variable of the process."""
CACHE = "MVDIFF_CACHE"
"""Names the folder on a node's disk for what stays from job to job."""
_YOUNG_S = 60.0
"""A folder may be so old before its process holds it."""


def settle(place: Place) -> None:
    """Have this process's temporary files lie in a folder of its own below ``SCRATCH``, if that is set.

    The folder is removed when the process ends; what a killed one left goes when the next process of this user settles
    on the node. A node that has no such disk is told of, and its processes use its usual folder.
    """
    asked = os.environ.get(SCRATCH)
    if not asked:
        return
    disk = Path(os.path.expandvars(asked))
    own = disk / f"mvdiff-{place.job_id}-{place.rank}"
    try:
        if "$" in str(disk) or not disk.is_absolute():
            raise FileNotFoundError(0, "a variable in its name is not set")
        shutil.rmtree(own, ignore_errors=True)
        # a disk that is not mounted must not be imitated
        disk.mkdir(mode=0o700, exist_ok=True)
        own.mkdir(mode=0o700)
        _hold(own)
    except OSError as error:
        print(
            f"mvdiff: no temporary files in {disk} on {place.node}: {error.strerror}; they go to "
            f"{tempfile.gettempdir()}",
            file=sys.stderr,
            flush=True,
        )
        return
    _sweep(disk)
    os.environ.setdefault(CACHE, str(disk))
    os.environ["TMPDIR"] = tempfile.tempdir = str(own)
    atexit.register(shutil.rmtree, own, ignore_errors=True)


def _hold(folder: Path) -> int | None:
    """A descriptor that holds ``folder`` until the process ends; None where another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _sweep(disk: Path) -> None:
    """Remove the folders of this user's processes that have ended without doing so."""
    for left in disk.glob("mvdiff-*-*"):
        with suppress(OSError):
            found = left.lstat()
            if found.st_uid != os.getuid() or time.time() - found.st_mtime < _YOUNG_S:
                continue
            held = _hold(left)
            if held is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(held)

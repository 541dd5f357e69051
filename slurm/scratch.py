"""A folder for a process's temporary files on its node's own disk."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from slurm.place import Place

SCRATCH = "MVDIFF_SCRATCH"
"""Names the folder in which processes make theirs; ``$NAME`` in it stands for a variable of the process."""
CACHE = "MVDIFF_CACHE"
"""Names the folder on a node's disk for what stays from job to job."""


def settle(place: Place) -> None:
    """Have this process's temporary files lie in a folder of its own below ``SCRATCH``, if that is set.

    The folder is removed when the process ends, and what a killed one left when it starts again on the node. A node
    that has no such disk is told of, and its processes use its usual folder.
    """
    asked = os.environ.get(SCRATCH)
    if not asked:
        return
    disk = Path(os.path.expandvars(asked))
    own = disk / f"mvdiff-{place.job_id}-{place.rank}"
    try:
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(mode=0o700, parents=True)
    except OSError as error:
        print(
            f"mvdiff: no temporary files in {disk} on {place.node}: {error.strerror}; they go to "
            f"{tempfile.gettempdir()}",
            file=sys.stderr,
            flush=True,
        )
        return
    os.environ.setdefault(CACHE, str(disk))
    os.environ["TMPDIR"] = tempfile.tempdir = str(own)
    atexit.register(shutil.rmtree, own, ignore_errors=True)

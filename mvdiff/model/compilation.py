"""Compiled kernels (torch.compile): made once a node by whichever worker comes first, read from a cache by the others.

The cache is executable code, so it lies where nobody but its user can write.
"""

import fcntl
import gc
import hashlib
import json
import os
import platform
import shutil
import stat
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from mvdiff.errors import InputError

CACHE = "MVDIFF_CACHE"
"""Variable that names a folder of the node for compiled code, where temporary files do not stay."""
LOADED = "mvdiff"
"""Among torch's counters that of the graphs whose kernels were loaded without torch's own look for them."""
_DONE = "complete"


@dataclass(frozen=True)
class Compilation:
    """What making compiled kernels ready took."""

    graphs: int
    """Graphs that were made ready."""
    cached: int
    """Those of them that were in the node's cache."""
    seconds: float
    """Time it took, without the wait."""
    waited: float
    """Seconds before that in which another worker of the node compiled."""
    folder: Path
    """The cache."""

    def __str__(self) -> str:
        waited = f" after {self.waited:.0f} s behind another worker" if self.waited >= 1 else ""
        return f"{self.graphs} graphs ready in {self.seconds:.0f} s{waited}, {self.cached} from the cache {self.folder}"


def refuse_compiling(device: torch.device, key: str = "generate.compile") -> None:
    """Raise ``InputError`` where this machine lacks what torch compiles with, or torch compiles what it likes.

    ``key`` is the setting that asks for it.
    """
    if not hasattr(inductor, "deterministic"):
        raise _refusal(key, f"torch {torch.__version__} picks other kernels on other nodes", "torch 2.10")
    # those that Triton, or Inductor for a CPU, calls
    known = {"cuda": ("CC", ("clang", "gcc")), "cpu": ("CXX", ("g++",))}
    variable, names = known.get(device.type, known["cpu"])
    names = (os.environ[variable],) if os.environ.get(variable) else names
    if not any(shutil.which(name) for name in names):
        raise _refusal(key, f"{platform.node()} has no compiler ({' or '.join(names)})", names[-1])
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        raise _refusal(key, f"{platform.node()} lacks {header}", "Python's headers")


def _refusal(key: str, what: str, lacking: str) -> InputError:
    return InputError(f"{key}=true cannot work: {what}", f"install {lacking}, or say {key}=false")


OPTIONS: dict[str, Any] = {
    # or kernels are chosen by measuring, which makes other last bits on other nodes
    "deterministic": True,
    # which torch keeps in a folder of its own choice, whoever made that
    "cpp_cache_precompile_headers": False,
    # channels last, which the GPU's convolutions take: Inductor by itself leaves a graph with one narrow convolution,
    # as that of the latents, in torch's order, and every convolution then turns its data twice
    "force_layout_optimization": True,
}
"""What Inductor is told."""

TRAINING: dict[str, Any] = OPTIONS | {
    # a pass of a few samples is over before Python has started its kernels: CUDA graphs start them all at once
    "triton.cudagraphs": True,
}
"""The same where gradients are wanted."""


@dataclass(frozen=True)
class CompileCache:
    """A folder on this node's own disk (under ``CACHE``, ``TMPDIR``, or /tmp) that all workers of its user share."""

    folder: Path

    @classmethod
    def of(cls, device: torch.device, facts: Mapping[str, Any]) -> "CompileCache":
        """The cache, made where it is not there, for what ``facts`` (JSON values) say on ``device``.

        Raises ``InputError`` where somebody else could have written to it.
        """
        machine: list[Any] = [platform.machine(), platform.python_version(), torch.__version__, diffusers.__version__]
        if device.type == "cuda":
            name = torch.cuda.get_device_name(device)
            machine += [name, torch.version.cuda, *torch.cuda.get_device_capability(device)]
        else:
            name = torch.backends.cpu.get_cpu_capability()
            # of each CPU graph the number of its threads is a part
            machine += [name, torch.get_num_threads()]
        digest = hashlib.sha256(json.dumps([machine, dict(facts)], sort_keys=True).encode()).hexdigest()
        safe = "".join(letter if letter.isalnum() else "-" for letter in f"torch-{torch.__version__}-{name}")
        folder = Path(
            os.environ.get(CACHE) or tempfile.gettempdir(), f"mvdiff-compiled-{os.getuid()}", f"{safe}-{digest[:16]}"
        ).absolute()
        _private(folder.parent)
        _private(folder)
        return cls(folder)

    @contextmanager
    def turn(self, tell: Callable[[str], None]) -> Iterator[None]:
        """Enter to compile: whoever comes first compiles alone, and the others enter when it is done or dead.

        What is compiled goes to the cache from now on, also after the block.
        """
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(self.folder)
        os.environ["TRITON_CACHE_DIR"] = str(self.folder / "triton")
        done = self.folder / _DONE
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell(f"another worker compiles in {self.folder}, waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if done.exists():
                # Readers of the cache do not disturb each other: the next may come.
                lock.close()
            yield
            done.touch()


def compiled(cache: CompileCache, work: Callable[[], None], tell: Callable[[str], None]) -> Compilation:
    """Run ``work``, which calls what is to be compiled, when it is this worker's turn."""
    start = time.monotonic()
    with cache.turn(tell), _no_collection(), warnings.catch_warnings():
        # of diffusers' own look at torch's version, which is the same every time
        warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`", UserWarning)
        entered, before = time.monotonic(), _counted()
        work()
        graphs, cached = (now - then for now, then in zip(_counted(), before, strict=True))
        return Compilation(graphs, cached, time.monotonic() - entered, entered - start, cache.folder)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Tracing makes objects by the million that stay: to look through them again and again took a fifth of its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _counted() -> tuple[int, int]:
    """Graphs of this process so far, and those of them that were found in a cache."""
    torchs, loaded = counters["aot_autograd"], counters[LOADED]["graphs"]
    return torchs["total"] + loaded, torchs["autograd_cache_hit"] + loaded


def _private(folder: Path) -> None:
    """Make ``folder``, or see that only this user can have written to it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}, a cache of compiled code, cannot be made ({error.strerror})",
            f"let {CACHE} name a folder on a disk of {platform.node()} that this user can write to",
        ) from error
    found = folder.lstat()
    mend = f"remove it if it is yours, or let {CACHE} name another folder, on a disk of {platform.node()}"
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise InputError(f"{folder}, a cache of compiled code, is not this user's own folder", mend)
    if found.st_mode & 0o077:
        raise InputError(f"{folder}, a cache of compiled code, is open to others ({found.st_mode & 0o777:o})", mend)
    for above in folder.parents:
        found = above.stat()
        if found.st_uid != os.getuid() and found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
            raise InputError(f"{above}, where a cache of compiled code would lie, can be written by others", mend)

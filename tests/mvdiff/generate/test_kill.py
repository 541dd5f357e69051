"""A worker is killed with -9 at its write boundaries, one after the other; the next one finishes its work."""

import os
import random
import resource
import signal
from collections.abc import Callable

import pytest

from mvdiff.generate import status
from mvdiff.generate.ledger import read_ledger

BOUNDARIES = ("link", "replace", "rename", "fsync", "unlink", "write", "pwrite", "ftruncate", "mkdir", "rmdir")


class Boundaries:
    """Counts the system calls that change files, and ends this process in front of one of them."""

    def __init__(self, fatal: int) -> None:
        self.count, self.fatal = 0, fatal
        for name in BOUNDARIES:
            setattr(os, name, self.counted(name, getattr(os, name)))

    def counted(self, name: str, real: Callable) -> Callable:
        def call(*args, **keywords):
            if self.count == self.fatal:
                if name in ("write", "pwrite"):
                    handle, content, *place = args
                    real(handle, content[: len(content) // 2], *place)
                os.kill(os.getpid(), signal.SIGKILL)
            self.count += 1
            return real(*args, **keywords)

        return call


class Child:
    """A worker in a process of its own that dies at boundary ``fatal``, or never (-1)."""

    def __init__(self, bench, plan, sampler, name: str, fatal: int = -1, file_limit: int | None = None) -> None:
        read, write = os.pipe()
        report = os.write
        self.pid = os.fork()
        if not self.pid:
            try:
                if file_limit:
                    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
                boundaries = Boundaries(fatal)

                def reporting(images, seeds):
                    report(write, b"sampled\n")
                    return sampler(images, seeds)

                bench.work(plan, name, reporting)
                report(write, f"{boundaries.count}\n".encode())
                os._exit(0)
            finally:
                os._exit(1)
        os.close(write)
        self._pipe = read

    def ended(self) -> tuple[int, int, int]:
        """Wait status, batches sampled, and boundaries passed (0 if it was killed)."""
        with os.fdopen(self._pipe) as pipe:
            lines = pipe.read().split()
        status = os.waitpid(self.pid, 0)[1]
        batches = lines.count("sampled")
        return status, batches, int(lines[-1]) if len(lines) > batches else 0


def test_killed_at_every_write_boundary(bench, sampler, tmp_path):
    calm = bench.plan(tmp_path / "counted", limit=8, slice_size=8)
    ended, _, boundaries = Child(bench, calm, sampler, "calm").ended()
    assert ended == 0 and boundaries > 20
    expected = bench.hashes(calm.folder)
    for fatal in range(boundaries):
        plan = bench.plan(tmp_path / f"killed-{fatal}", limit=8, slice_size=8)
        ended, before, _ = Child(bench, plan, sampler, "killed", fatal).ended()
        assert os.WIFSIGNALED(ended), fatal
        after = []

        def counting(images, seeds, after=after):
            after.append(seeds)
            return sampler(images, seeds)

        assert bench.work(plan, "next", counting) == "done", fatal
        assert bench.hashes(plan.folder) == expected, fatal
        assert before + len(after) <= 4 + 2, f"killed at {fatal}: more than the batches in hand were done twice"
        state = status(plan.folder)
        assert (state.done, state.finished) == (8, True)
        assert not list((plan.folder / "leases").iterdir()), fatal
        assert not list((plan.folder / "attempts").glob("*")), fatal
        assert sum(line["kind"] == "published" for line in read_ledger(plan.folder)) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_workers_that_keep_dying_beside_each_other_lose_nothing(bench, sampler, calm, seed):
    rng = random.Random(seed)
    plan = bench.plan()
    deaths = 0
    for generation in range(6):
        children = [Child(bench, plan, sampler, f"w{generation}-{k}", rng.randrange(2, 25)) for k in range(3)]
        deaths += sum(os.WIFSIGNALED(child.ended()[0]) for child in children)
    assert deaths > 3
    assert bench.work(plan, "last") == "done"
    assert bench.hashes(plan.folder) == calm
    published = [line["slice"] for line in read_ledger(plan.folder) if line["kind"] == "published"]
    assert len(published) == len(set(published))
    assert status(plan.folder).finished


def test_a_disk_that_is_full_for_a_while_stops_a_worker_and_loses_nothing(bench, sampler, calm):
    plan = bench.plan()
    ended, _, _ = Child(bench, plan, sampler, "full", file_limit=8000).ended()
    assert os.WIFEXITED(ended) and ended != 0
    assert bench.work(plan, "next") == "done"
    assert bench.hashes(plan.folder) == calm

"""A worker is killed with -9 at its write boundaries, one after the other; the next one finishes its work."""

import os
import resource
import signal
from collections.abc import Callable

import pytest

from mvdiff.generate import status
from mvdiff.generate.ledger import read_ledger

BOUNDARIES = ("link", "replace", "rename", "fsync", "unlink", "write", "mkdir", "rmdir")


class Boundaries:
    """Counts the system calls that change files, and ends this process in front of one of them."""

    def __init__(self, fatal: int) -> None:
        self.count, self.fatal = 0, fatal
        for name in BOUNDARIES:
            setattr(os, name, self.counted(name, getattr(os, name)))

    def counted(self, name: str, real: Callable) -> Callable:
        def call(*args, **keywords):
            if self.count == self.fatal:
                if name == "write":
                    handle, content = args
                    real(handle, content[: len(content) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            self.count += 1
            return real(*args, **keywords)

        return call


@pytest.fixture
def in_child(bench, sampler, tmp_path):
    """Run a worker in a process that dies at boundary ``fatal``: its wait status, boundaries passed, sampler calls."""

    def run(plan, fatal=-1, limit=None):
        read, write = os.pipe()
        calls = 0

        def counting(images, seeds):
            nonlocal calls
            calls += 1
            (tmp_path / "calls").write_text(str(calls))
            return sampler(images, seeds)

        (tmp_path / "calls").write_text("0")
        child = os.fork()
        if not child:
            try:
                real_write = os.write
                if limit:
                    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                boundaries = Boundaries(fatal)
                bench.work(plan, "killed", counting)
                real_write(write, str(boundaries.count).encode())
                os._exit(0)
            finally:
                os._exit(1)
        os.close(write)
        ended = os.waitpid(child, 0)[1]
        with os.fdopen(read) as pipe:
            boundaries = pipe.read()
        return ended, int(boundaries or 0), int((tmp_path / "calls").read_text())

    return run


def test_killed_at_every_write_boundary(bench, in_child, sampler, tmp_path):
    calm = bench.plan(tmp_path / "counted", limit=4)
    ended, boundaries, _ = in_child(calm)
    assert ended == 0 and boundaries > 20
    expected = bench.hashes(calm.folder)
    for fatal in range(boundaries):
        plan = bench.plan(tmp_path / f"killed-{fatal}", limit=4)
        ended, _, before = in_child(plan, fatal)
        assert os.WIFSIGNALED(ended), fatal
        after = []

        def counting(images, seeds, after=after):
            after.append(seeds)
            return sampler(images, seeds)

        assert bench.work(plan, "next", counting) == "done", fatal
        assert bench.hashes(plan.folder) == expected, fatal
        assert before + len(after) <= 3, f"killed at {fatal}: more than the batch in hand was done twice"
        state = status(plan.folder)
        assert (state.done, state.finished) == (4, True)
        assert not list((plan.folder / "leases").iterdir()), fatal
        assert not list((plan.folder / "work").glob("*")), fatal
        assert sum(line["kind"] == "published" for line in read_ledger(plan.folder)) <= 1


def test_many_deaths_in_a_row_lose_nothing(bench, in_child, calm):
    plan = bench.plan()
    for fatal in range(8, 40, 3):
        in_child(plan, fatal)
    assert bench.work(plan, "last") == "done"
    assert bench.hashes(plan.folder) == calm


def test_a_disk_that_is_full_for_a_while_stops_a_worker_and_loses_nothing(bench, in_child, calm):
    plan = bench.plan()
    ended, _, _ = in_child(plan, limit=8000)
    assert ended != 0
    assert bench.work(plan, "next") == "done"
    assert bench.hashes(plan.folder) == calm

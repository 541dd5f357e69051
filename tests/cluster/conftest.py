"""A real SLURM for the tests in this folder, started once a session from Debian's packages."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from slurm.errors import RequestError
from slurm.testbed import Testbed

NEEDED = "cluster tests need SLURM"
LONG = ("storm", "chaos", "drills")

Eventually = Callable[[Callable[[], object], float], object]


def _require(accounting: bool) -> None:
    try:
        Testbed.check(accounting=accounting)
    except RequestError as error:
        if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
            pytest.fail(f"cluster tests cannot run: {error}", pytrace=False)
        pytest.skip(f"{NEEDED}: {error}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The groups that last longest begin first, so that none is left to run alone at the end."""
    groups = [marker.args[0] if (marker := item.get_closest_marker("xdist_group")) else None for item in items]
    order = sorted(range(len(items)), key=lambda k: groups[k] not in LONG)
    items[:] = [items[k] for k in order]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give all tests that lack SLURM one place, so that pytest tells of them in one line."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple) and NEEDED in report.longrepr[2]:
        report.longrepr = (__file__, _require.__code__.co_firstlineno, report.longrepr[2])
    return report


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder with a name short enough for sockets, of this session and this xdist worker alone."""
    folder = Path(tempfile.mkdtemp(prefix="mvdiff-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def testbed(short_folder: Path) -> Iterator[Testbed]:
    """Four nodes with four GPUs each, without accounting: sacct does not answer."""
    _require(accounting=False)
    bed = Testbed(short_folder / "plain")
    bed.up()
    yield bed
    bed.down()


@pytest.fixture(scope="session")
def accounting_testbed(short_folder: Path) -> Iterator[Testbed]:
    """Two nodes with two GPUs each, with slurmdbd: sacct answers. Preemption kills almost at once."""
    _require(accounting=True)
    bed = Testbed(short_folder / "accounted")
    bed.up(nodes=2, gpus=2, accounting=True, grace_seconds=1)
    yield bed
    bed.down()


@pytest.fixture(scope="module")
def limited_testbed(short_folder: Path) -> Iterator[Testbed]:
    """Two nodes, with slurmdbd, whose limits a module's tests may set; an array has five members at most."""
    _require(accounting=True)
    bed = Testbed(short_folder / "limited")
    bed.up(nodes=2, gpus=0, accounting=True, max_array_size=5)
    yield bed
    bed.down()


@pytest.fixture
def cluster(testbed: Testbed, monkeypatch: pytest.MonkeyPatch, eventually: Eventually) -> Iterator[Testbed]:
    """``testbed``, with this process's environment pointing at it, and an empty queue before the next test."""
    yield from _pointed_at(testbed, monkeypatch, eventually)


@pytest.fixture
def accounting_cluster(
    accounting_testbed: Testbed, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> Iterator[Testbed]:
    """``accounting_testbed`` in the same way."""
    yield from _pointed_at(accounting_testbed, monkeypatch, eventually)


@pytest.fixture
def limited_cluster(
    limited_testbed: Testbed, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> Iterator[Testbed]:
    """``limited_testbed`` in the same way."""
    yield from _pointed_at(limited_testbed, monkeypatch, eventually)


def _pointed_at(bed: Testbed, monkeypatch: pytest.MonkeyPatch, eventually: Eventually) -> Iterator[Testbed]:
    environment = bed.environment()
    for name in set(os.environ) - set(environment):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    yield bed
    bed.client.run("scancel", "--user=root", "--signal=KILL", "--full")
    bed.client.run("scancel", "--user=root")
    eventually(lambda: not bed.client.run("squeue", "--noheader").stdout.strip(), 30)


@pytest.fixture(scope="session")
def eventually() -> Eventually:
    """Poll a condition until it holds and return what it returned; the test fails when it does not in time."""

    def poll(condition: Callable[[], object], seconds: float) -> object:
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"did not happen within {seconds:g} s")
            time.sleep(0.05)
        return found

    return poll

"""A full disk costs one line, never the interpreter, never a half-written shard."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mvdiff.shard import ShardReader

WRITE = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from mvdiff.errors import InputError
from mvdiff.rig import rig
from mvdiff.shard import Sample, ShardWriter
path, codec, rows, limit = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
r = rig("mouse")
try:
    with ShardWriter(path, size=64, rig="mouse", codec=codec, with_alpha=False) as writer:
        for i in range(writer.rows, rows):
            views = np.random.default_rng(i).integers(0, 256, (6, 64, 64, 3), np.uint8)
            writer.append(Sample(f"s{i}", "r", views, None, r.w2c(), r.intrinsics(64),
                                 np.float32(r.azimuth), np.float32(r.elevation)))
        print("appended", writer.rows, flush=True)
        writer.publish()
except InputError as error:
    print(f"mvdiff: {error}", file=sys.stderr)
    sys.exit(2)
"""
ROW = 6 * 64 * 64 * 3


def run(path: Path, codec: str, rows: int, limit: int = 0, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    command = [*before, sys.executable, "-c", WRITE, str(path), codec, str(rows), str(limit)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def assert_refused(result: subprocess.CompletedProcess, path: Path) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1
    assert str(path) in result.stderr
    assert "free some space" in result.stderr
    assert {p.name for p in path.parent.iterdir()} <= {f".{path.name}.part"}


@pytest.mark.parametrize("codec", ["raw", "gzip"])
@pytest.mark.parametrize("rows", [0.5, 2.5, 4.2])
def test_full_at_any_point_then_mended(tmp_path, codec, rows):
    path = tmp_path / "a.h5"
    assert_refused(run(path, codec, 5, int(rows * ROW)), path)
    assert run(path, codec, 5).returncode == 0
    assert ShardReader(path).ids() == [f"s{i}" for i in range(5)]


def test_full_while_the_shard_is_made_from_its_journal(tmp_path):
    path = tmp_path / "a.h5"
    # Noise does not compress: behind 300 rows of journal the index and header make the shard the larger file.
    limit = 5 * (ROW + 1500)
    result = run(path, "raw", 5, limit)
    assert "appended 5" in result.stdout
    assert_refused(result, path)
    assert run(path, "raw", 5).returncode == 0


def test_a_file_system_that_is_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f'mount -t tmpfs -o size=1m none {disk} && "$@"; status=$?; find {disk} -type f >&2; exit $status'
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here")
    before = ("unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh")
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    for rows, during in ((9, "publishing"), (20, "appending")):
        result = run(disk / "a.h5", "raw", rows, before=before)
        assert result.returncode == 2, (during, result.stderr)
        message, *files = result.stderr.splitlines()
        assert "No space left on device" in message
        assert files == [f"{disk}/.a.h5.part"]
        assert ("appended" in result.stdout) == (during == "publishing")

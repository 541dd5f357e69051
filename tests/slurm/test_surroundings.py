"""What a site puts around a job's processes: container, variables, scratch, network; seen by real local ones."""

import fcntl
import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slurm.submission import states
from slurm.submitter import Submitter
from tests.site import site

JOB = """
    import json, os, tempfile
    from pathlib import Path
    from slurm.place import here
    from slurm.rendezvous import meet

    class Look:
        def __init__(self, folder):
            self.folder = folder

        def __call__(self):
            place = here()
            folder = Path(tempfile.gettempdir())
            (folder / "left").write_text("x")
            met = meet(Path(self.folder), place, timeout_s=60)
            seen = {"environment": dict(os.environ), "temporary": str(folder), "address": met.address}
            seen["mode"] = folder.stat().st_mode & 0o777
            (Path(self.folder) / f"seen-{place.rank}.json").write_text(json.dumps(seen))
"""
CONTAINER = '#!/bin/sh\necho "$1" > "$0.ran"\nshift\nIN_CONTAINER=yes exec "$@"\n'

Look = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def look(tmp_path, monkeypatch) -> Iterator[Look]:
    """Run a job of two processes with a cluster's changes; what each of them saw."""
    code, logs = tmp_path / "code", tmp_path / "logs"
    code.mkdir()
    logs.mkdir()
    (code / "look_job.py").write_text(textwrap.dedent(JOB))
    monkeypatch.syspath_prepend(str(code))

    def run(**changes: Any) -> list[dict[str, Any]]:
        import look_job

        cluster = site(kind="local", tasks_per_node=2, time_min=5, **changes)
        submission = Submitter(cluster, "look", logs, code, 30, 1).submit(look_job.Look(str(logs)), None)
        deadline = time.monotonic() + 120
        while not all(state.ended for state in states(submission).values()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        told = [submission.log(submission.job_ids[0], rank).read_text() for rank in (0, 1)]
        files = [logs / f"seen-{rank}.json" for rank in (0, 1)]
        assert all(file.exists() for file in files), told
        return [json.loads(file.read_text()) | {"log": log} for file, log in zip(files, told, strict=True)]

    yield run
    sys.modules.pop("look_job", None)


def test_a_container_s_command_stands_before_the_python_of_its_own(tmp_path, look):
    container = tmp_path / "a container"
    python = tmp_path / "python in it"
    for program, text in ((container, CONTAINER), (python, f'#!/bin/sh\nIN_PYTHON=yes exec {sys.executable} "$@"\n')):
        program.write_text(text)
        program.chmod(0o755)
    seen = look(container=f"'{container}' 'mouse lab.sif'", python=str(python))
    assert all(one["environment"]["IN_CONTAINER"] == one["environment"]["IN_PYTHON"] == "yes" for one in seen)
    assert Path(f"{container}.ran").read_text() == "mouse lab.sif\n"


def test_every_process_has_the_site_s_variables_as_they_were_written(look):
    wanted = {"A": "a $HOME 'b' \"c\"", "ON": True, "NUMBER": 3, "OMP_NUM_THREADS": 5}
    for one in look(environment=wanted):
        got = one["environment"]
        assert [got[name] for name in wanted] == [wanted["A"], "true", "3", "5"]


def test_scratch_is_a_process_s_own_and_gone_with_it(tmp_path, look):
    (tmp_path / "me").mkdir()
    seen = look(scratch=str(tmp_path / "$USER_OF_IT/disk"), environment={"USER_OF_IT": "me"})
    folders = [Path(one["temporary"]) for one in seen]
    assert len(set(folders)) == 2
    for folder, one in zip(folders, seen, strict=True):
        assert folder.parent == tmp_path / "me/disk"
        assert one["environment"]["TMPDIR"] == str(folder)
        assert one["environment"]["MVDIFF_CACHE"] == str(folder.parent)
        assert one["mode"] == 0o700
    assert list((tmp_path / "me/disk").iterdir()) == []


def test_what_a_killed_process_left_goes_when_the_next_one_comes(tmp_path, look):
    disk = tmp_path / "disk"
    for name in ("mvdiff-1_0-0", "mvdiff-2-0", "mvdiff-3-0"):
        (disk / name).mkdir(parents=True)
        (disk / name / "left").touch()
        os.utime(disk / name, (0, 0))
    os.utime(disk / "mvdiff-3-0")
    held = os.open(disk / "mvdiff-2-0", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    look(scratch=str(disk))
    os.close(held)
    assert sorted(path.name for path in disk.iterdir()) == ["mvdiff-2-0", "mvdiff-3-0"], "one is held, one is young"


def test_a_variable_that_is_not_set_names_no_folder(tmp_path, look, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for one in look(scratch="$NO_SUCH_DISK/x"):
        assert "mvdiff: no temporary files in $NO_SUCH_DISK/x" in one["log"]
    assert not (tmp_path / "$NO_SUCH_DISK").exists()


@pytest.mark.parametrize("disk", ["file", "not-mounted/mouse"])
def test_a_node_without_the_scratch_disk_works_without_it(tmp_path, look, disk):
    (tmp_path / "file").touch()
    for one in look(scratch=str(tmp_path / disk)):
        assert one["temporary"] == os.environ.get("TMPDIR", "/tmp")
        assert f"mvdiff: no temporary files in {tmp_path / disk} on" in one["log"]
    assert not (tmp_path / "not-mounted").exists()


def test_processes_meet_on_the_network_that_was_named(look):
    for one in look(network_interface="lo"):
        assert one["address"] == "127.0.0.1"
        assert one["environment"]["NCCL_SOCKET_IFNAME"] == one["environment"]["GLOO_SOCKET_IFNAME"] == "lo"

"""What reaches the queue, seen without one: batch scripts, hostile values, local jobs."""

import dataclasses
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from slurm.cluster import Cluster
from slurm.errors import RequestError
from slurm.submission import Submitter, states

GOLDEN = Path(__file__).parent / "golden"


def cluster(**changes) -> Cluster:
    base = Cluster(
        kind="slurm",
        nodes=2,
        gpus_per_node=4,
        tasks_per_node=None,
        workers=64,
        cpus_per_task=8,
        memory_gb=None,
        time_min=1440,
        signal_lead_s=180,
        partition=None,
        account=None,
        qos=None,
        constraint=None,
        exclude=None,
        setup=[],
    )
    return dataclasses.replace(base, **changes)


def script(tmp_path: Path, workers: int | None, **changes) -> str:
    text = Submitter(cluster(**changes), "mice-train", tmp_path / "logs", tmp_path / "code").script(workers)
    return text.replace(str(tmp_path), "RUN").replace(sys.executable, "PYTHON")


@pytest.mark.parametrize(
    ("name", "workers", "changes"),
    [
        ("training", None, {"partition": "gpu", "account": "lab 7", "memory_gb": 64}),
        ("array", 64, {"nodes": 1, "gpus_per_node": 1, "setup": ["module load cuda/12"], "exclude": "n[1-3],n7"}),
    ],
)
def test_batch_script_is_the_golden_one(tmp_path, name, workers, changes):
    golden = GOLDEN / f"{name}.sh"
    got = script(tmp_path, workers, **changes)
    if os.environ.get("MVDIFF_UPDATE_GOLDEN"):
        golden.write_text(got)
    assert got == golden.read_text()


@pytest.mark.parametrize("field", ["partition", "account", "qos", "constraint", "exclude"])
@pytest.mark.parametrize("value", ["gpu\necho broken out", "gpu\r", "a\x00b", "a\x7fb"])
def test_control_characters_never_reach_a_script(field, value):
    with pytest.raises(RequestError, match=f"cluster.{field}=.*control character"):
        cluster(**{field: value})


def test_control_character_in_a_setup_line_or_the_job_name_is_refused(tmp_path):
    with pytest.raises(RequestError, match="control character"):
        cluster(setup=["module load x", "a\nb"])
    with pytest.raises(RequestError, match="job name"):
        Submitter(cluster(), "a\nb", tmp_path, tmp_path)


HOSTILE = ["$(touch hit)", "`touch hit`", "'; touch hit; '", '"; touch hit; "', "a b", "#", "$HOME", "ü|&;<>*?~"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_only_words_when_the_script_runs(tmp_path, name):
    """The script is run by bash with srun replaced by a program that writes down its arguments."""
    logs, bin_, cwd = tmp_path / name.replace("/", "_"), tmp_path / "bin", tmp_path / "cwd"
    for folder in (bin_, cwd):
        folder.mkdir()
    (bin_ / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$SEEN"\n')
    (bin_ / "srun").chmod(0o755)
    one = cluster(partition=name, account=name, exclude=name, constraint=name, qos=name)
    text = Submitter(one, name, logs, logs / "code").script(None)
    (tmp_path / "job.sh").write_text(text)
    seen = tmp_path / "seen"
    environment = os.environ | {"PATH": f"{bin_}:{os.environ['PATH']}", "SEEN": str(seen)}
    subprocess.run(["bash", str(tmp_path / "job.sh")], cwd=cwd, env=environment, check=True)
    assert list(cwd.iterdir()) == []
    words = seen.read_text().splitlines()
    assert str(logs) in words
    assert f"PYTHONPATH={logs / 'code'}" in words


def test_a_percent_sign_that_slurm_would_expand_is_refused(tmp_path):
    with pytest.raises(RequestError, match="%"):
        Submitter(cluster(), "x", tmp_path / "a%jb", tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "pbs"}, "kind"),
        ({"nodes": 0}, "cluster.nodes=0"),
        ({"workers": 0}, "cluster.workers=0"),
        ({"kind": "local"}, "add cluster=slurm"),
    ],
)
def test_impossible_requests_are_refused(changes, says):
    with pytest.raises(RequestError, match=says):
        cluster(**changes)


def test_one_task_a_gpu_unless_said_otherwise():
    assert cluster().tasks == 4
    assert cluster(gpus_per_node=0).tasks == 1
    assert cluster(gpus_per_node=2, tasks_per_node=3).tasks == 3


JOB = """
    import os, sys, time
    from pathlib import Path
    from slurm.place import here
    from slurm.rendezvous import meet
    from slurm.requeue import come_back
    from slurm.stop import StopFlag

    class Job:
        def __init__(self, folder):
            self.folder = folder

        def __call__(self):
            stop, place = StopFlag.install(), here()
            met = meet(Path(self.folder), place, timeout_s=60)
            note = Path(self.folder) / f"rank-{place.rank}.txt"
            starts = len(note.read_text().split()) if note.exists() else 0
            with note.open("a") as file:
                file.write(f"{os.getpid()}:{met.port}:{place.world_size} ")
            deadline = time.monotonic() + 60
            others = [Path(self.folder) / f"rank-{rank}.txt" for rank in range(place.world_size)]
            # As in a process group, nobody leaves before all have met.
            while any(not path.exists() or len(path.read_text().split()) <= starts for path in others):
                time.sleep(0.02)
            while starts == 0 and not stop.is_set() and time.monotonic() < deadline:
                time.sleep(0.02)
            if stop.is_set():
                come_back(place, Path(self.folder))
"""


@pytest.fixture
def probe(tmp_path, monkeypatch):
    """A callable that a job imports from its code folder: waits for the signal, comes back, then finishes."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "probe_job.py").write_text(textwrap.dedent(JOB))
    logs = tmp_path / "logs"
    logs.mkdir()
    monkeypatch.syspath_prepend(str(code))
    import probe_job

    yield probe_job.Job(str(logs)), logs, code
    sys.modules.pop("probe_job")


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return found


def starts(logs: Path, rank: int) -> list[str]:
    path = logs / f"rank-{rank}.txt"
    return path.read_text().split() if path.exists() else []


def test_local_job_comes_back_after_the_signal(probe):
    call, logs, code = probe
    local = cluster(kind="local", nodes=1, gpus_per_node=0, tasks_per_node=2, time_min=10, cpus_per_task=1)
    submission = Submitter(local, "probe", logs, code).submit(call, None)
    until(lambda: len(starts(logs, 0)) == 1 and len(starts(logs, 1)) == 1)
    assert [state.word for state in states(submission).values()] == ["RUNNING"]
    for rank in (0, 1):
        os.kill(int(starts(logs, rank)[0].split(":")[0]), 12)
    until(lambda: all(state.ended for state in states(submission).values()))
    first, second = zip(*(starts(logs, rank) for rank in (0, 1)), strict=True)
    for attempt in (first, second):
        assert len({entry.split(":")[1] for entry in attempt}) == 1, "both ranks met at one port"
        assert {entry.split(":")[2] for entry in attempt} == {"2"}

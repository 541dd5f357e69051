"""What reaches the queue, seen without one: batch scripts, hostile values, local jobs."""

import dataclasses
import functools
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from slurm.errors import RequestError
from slurm.script import BatchScript
from slurm.submission import Submission, states
from slurm.submitter import Submitter
from tests.site import site

GOLDEN = Path(__file__).parent / "golden"


cluster = functools.partial(site, nodes=2, gpus_per_node=4, workers=64, cpus_per_task=8)


def script(tmp_path: Path, workers: int | None, **changes) -> str:
    tries = None if workers is None else 3
    text = Submitter(cluster(**changes), "mice-train", tmp_path / "logs", tmp_path / "code", 180, tries).script(workers)
    return text.replace(str(tmp_path), "RUN").replace(sys.executable, "PYTHON")


SCRIPTS = {
    "training": (None, {"partition": "gpu", "account": "lab 7", "memory_gb": 64}),
    "array": (64, {"nodes": 1, "gpus_per_node": 1, "setup": ["ulimit -l unlimited"], "exclude": "n[1-3],n7"}),
    "gpus-per-node": (None, {"gpu_type": "h200", "cpus_per_gpu": 12, "memory_per_gpu_gb": 120}),
    "gres": (None, {"gpu_request": "gres", "gpu_type": "a100", "memory_gb": 0, "exclusive": True}),
    "gpus-per-task": (None, {"gpu_request": "gpus-per-task", "tasks_per_node": 2, "memory_per_cpu_gb": 1.5}),
    "cpus": (None, {"gpus_per_node": 0, "cpus_per_gpu": 12, "tasks_per_node": 4}),
    "modules": (None, {"modules": ["cuda/12.4", "a b"], "python": "/lab/venv/bin/python"}),
    "container": (
        None,
        {
            "container": "apptainer exec --nv '/images/mouse lab.sif'", "python": "python3", "scratch": "/local/$USER",
            "environment": {"HDF5_USE_FILE_LOCKING": "FALSE", "QUOTED": "a $HOME 'b'", "ON": True, "EMPTY": None},
            "network_interface": "ib0", "srun_args": ["--mpi=none"],
        },
    ),
    "everything": (
        4,
        {
            "nodes": 1, "partition": "gpu,low", "account": "lab", "qos": "long", "reservation": "course",
            "constraint": "h200&ib", "comment": "mouse's views", "mail_user": "me@example.org", "mail_type": "END",
            "extra": {"licenses": "scratch:1", "switches": 1, "spread-job": True, "nice": None, "contiguous": False},
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "workers", "changes"), [(name, *asked) for name, asked in SCRIPTS.items()])
def test_batch_script_is_the_golden_one(tmp_path, name, workers, changes):
    golden = GOLDEN / f"{name}.sh"
    got = script(tmp_path, workers, **changes)
    if os.environ.get("MVDIFF_UPDATE_GOLDEN"):
        golden.write_text(got)
    assert got == golden.read_text()


WORDS = (
    "partition", "account", "qos", "constraint", "exclude", "reservation", "comment", "mail_user", "mail_type",
    "network_interface", "python", "container",
)  # fmt: skip


@pytest.mark.parametrize("field", WORDS)
@pytest.mark.parametrize("value", ["gpu\necho broken out", "gpu\r", "a\x00b", "a\x7fb"])
def test_control_characters_never_reach_a_script(field, value):
    with pytest.raises(RequestError, match=f"cluster.{field}=.*control character"):
        cluster(**{field: value})


def test_control_character_in_a_setup_line_or_the_job_name_is_refused(tmp_path):
    for changes in (
        {"setup": ["module load x", "a\nb"]}, {"modules": ["a\nb"]}, {"srun_args": ["a\nb"]}, {"scratch": "/a\nb"},
        {"extra": {"nice": "1\n2"}}, {"environment": {"A": "1\n2"}},
    ):  # fmt: skip
        with pytest.raises(RequestError, match="control character"):
            cluster(**changes)
    with pytest.raises(RequestError, match="job name"):
        Submitter(cluster(), "a\nb", tmp_path, tmp_path, 180)


MODULE = {"BASH_FUNC_module%%": "() { printf '%s\\n' module \"$@\"; }"}
"""How bash hands functions on, and sites their module command."""


@pytest.mark.parametrize("field", ["partition", "comment", "mail_user", "reservation"])
def test_a_backslash_that_sbatch_would_take_for_its_own_is_refused(tmp_path, field):
    with pytest.raises(RequestError, match=f"cluster.{field}=.*backslash"):
        cluster(**{field: r"x\'' --output=/stolen #"})
    with pytest.raises(RequestError, match=r"cluster\.extra=.*backslash"):
        cluster(extra={"wckey": r"a\b"})
    with pytest.raises(RequestError, match=r"log folder=.*backslash"):
        Submitter(cluster(), "x", tmp_path / r"a\b", tmp_path, 180)
    assert cluster(environment={"A": r"a\b"}, setup=[r"echo a\b"]).tasks == 4


HOSTILE = ["$(touch hit)", "`touch hit`", "'; touch hit; '", '"; touch hit; "', "a b", "#", "$HOME", "ü|&;<>*?~"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_only_words_when_the_script_runs(tmp_path, name):
    """The script is run by bash with srun replaced by a program that writes down its arguments."""
    logs, bin_, cwd = tmp_path / name.replace("/", "_"), tmp_path / "bin", tmp_path / "cwd"
    for folder in (bin_, cwd):
        folder.mkdir()
    (bin_ / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$SEEN"\n')
    (bin_ / "srun").chmod(0o755)
    words = {field: name for field in WORDS if field not in ("container", "python")}
    one = cluster(
        **words, extra={"licenses": name}, srun_args=[name], environment={"A": name}, scratch=f"/{name}",
        container=shlex.join(["apptainer", name]), modules=[name],
    )  # fmt: skip
    text = Submitter(one, name, logs, logs / "code", 180).script(None)
    (tmp_path / "job.sh").write_text(text)
    seen = tmp_path / "seen"
    environment = os.environ | {"PATH": f"{bin_}:{os.environ['PATH']}", "SEEN": str(seen), **MODULE}
    told = subprocess.run(
        ["bash", str(tmp_path / "job.sh")], cwd=cwd, env=environment, check=True, capture_output=True, text=True
    )
    assert told.stdout.splitlines() == ["module", "load", name]
    assert list(cwd.iterdir()) == []
    words = seen.read_text().splitlines()
    assert str(logs) in words
    assert {f"PYTHONPATH={logs / 'code'}", f"A={name}", f"GLOO_SOCKET_IFNAME={name}", f"MVDIFF_SCRATCH=/{name}"} <= set(
        words
    )
    assert words[words.index("apptainer") + 1] == name
    assert words.index("--kill-on-bad-exit=1") + 1 == words.index(name)


SHOW = "import signal, sys; print(*sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))), *sys.argv[1:])"


@pytest.mark.parametrize(("old_env", "shown"), [(False, "12 15 a b\n"), (True, "a b\n")])
def test_warnings_are_held_back_until_python_wants_them(tmp_path, old_env, shown):
    """With an ``env`` that cannot do so the command runs all the same."""
    if old_env:
        (tmp_path / "env").write_text('#!/bin/sh\ncase "$1" in -*) exit 125;; esac\nexec /usr/bin/env "$@"\n')
        (tmp_path / "env").chmod(0o755)
    command = BatchScript(cluster(), "x", tmp_path, tmp_path, 60, None).python
    answer = subprocess.run(
        ["sh", "-c", f"{command} -c '{SHOW}' 'a b'"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == shown


def test_a_percent_sign_that_slurm_would_expand_is_refused(tmp_path):
    with pytest.raises(RequestError, match="%"):
        Submitter(cluster(), "x", tmp_path / "a%jb", tmp_path, 180)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "pbs"}, "kind"),
        ({"nodes": 0}, "cluster.nodes=0"),
        ({"workers": 0}, "cluster.workers=0 cannot be: give at least 1"),
        ({"time_min": 10**12}, "cluster.time_min=1000000000000 cannot be: give less than 1000000000"),
        ({"kind": "local"}, "add cluster=slurm"),
        ({"gpu_request": "gpu"}, "cluster.gpu_request='gpu' is unknown: choose one of gpus-per-node, gres"),
        ({"gpu_type": "a100:2"}, "cluster.gpu_type='a100:2' is no kind of GPU"),
        ({"gpu_request": "gpus-per-task", "tasks_per_node": 3}, "gpus_per_node=4 cannot be shared by 3 tasks alike"),
        ({"memory_gb": 1, "memory_per_gpu_gb": 1}, "cluster.memory_gb and cluster.memory_per_gpu_gb are given"),
        ({"extra": {"--nice": 1}}, "no option of sbatch"),
        ({"extra": {"nice": [1]}}, "no option of sbatch"),
        ({"extra": {"signal": "USR1@10"}}, "cluster.extra has signal, which mvdiff sets"),
        ({"extra": {"mail-user": "me"}}, "cluster.extra has mail-user, which mvdiff sets"),
        ({"extra": {"test-onl": True}}, "cluster.extra has test-onl, which mvdiff sets"),
        ({"setup": ["a", {"b": "c"}]}, "cluster.setup has .*, which is no text"),
        ({"environment": {"A B": 1}}, "no variable"),
        ({"environment": {"PYTHONPATH": "/x"}}, "cluster.environment has PYTHONPATH, which jobs need as it is"),
        ({"container": "apptainer 'exec"}, "cluster.container=.* is no command"),
        ({"scratch": "tmp"}, "cluster.scratch='tmp' depends on where a job starts"),
        ({"signal_lead_s": 600, "time_min": 10}, "cluster.signal_lead_s=600 is no less than the time limit of 10 min"),
    ],
)
def test_impossible_requests_are_refused(changes, says):
    with pytest.raises(RequestError, match=says):
        cluster(**changes)


def test_a_warning_that_comes_late_is_asked_for_earlier():
    assert cluster(signal_late_s=20).lead_s(None) == 200
    assert cluster(signal_late_s=20, signal_lead_s=60).lead_s(900) == 80


@pytest.mark.parametrize(
    ("asked", "need", "time_min", "lead"),
    [(None, None, 1440, 180), (None, 45.2, 1440, 46), (None, None, 5, 100), (None, 1000.0, 10, 200), (7, 900.0, 10, 7),
     (None, 1e6, 10**6, 65535)],
)  # fmt: skip
def test_the_lead_is_what_was_asked_or_measured_and_a_third_at_most(asked, need, time_min, lead):
    assert cluster(signal_lead_s=asked, time_min=time_min).lead_s(need) == lead


def test_one_task_a_gpu_unless_said_otherwise():
    assert cluster().tasks == 4
    assert cluster(gpus_per_node=0).tasks == 1
    assert cluster(gpus_per_node=2, tasks_per_node=3).tasks == 3


@pytest.mark.parametrize(
    ("job_ids", "shown"),
    [
        (["12"], "12"),
        (["12_0"], "12_0"),
        ([f"12_{k}" for k in range(1000)] + [f"13_{k}" for k in range(24)], "12_[0-999], 13_[0-23]"),
        (["7", "8"], "7, 8"),
    ],
)
def test_job_ids_for_people(job_ids, shown):
    assert Submission("slurm", "x", job_ids, "logs").shown == shown


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
                come_back(place, Path(self.folder), stop.signal)
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


LOCAL = cluster(kind="local", nodes=1, gpus_per_node=0, tasks_per_node=2, time_min=10, cpus_per_task=1)


@pytest.mark.parametrize("victim", [0, 1])
def test_local_job_comes_back_when_a_rank_is_killed(probe, victim):
    call, logs, code = probe
    submission = Submitter(LOCAL, "probe", logs, code, 60).submit(call, None)
    until(lambda: len(starts(logs, 0)) == 1 and len(starts(logs, 1)) == 1)
    os.kill(int(starts(logs, victim)[0].split(":")[0]), signal.SIGKILL)
    until(lambda: all(state.ended for state in states(submission).values()))
    assert [len(starts(logs, rank)) for rank in (0, 1)] == [2, 2]
    assert (logs / f"unasked-{submission.job_ids[0]}-0").exists()


@pytest.mark.parametrize(("tries", "expected"), [(2, 2), (8, 3)])
def test_local_job_that_only_fails_has_its_tries(tmp_path, tries, expected):
    one = dataclasses.replace(LOCAL, tasks_per_node=1)
    submission = Submitter(one, "probe", tmp_path, tmp_path, 60, tries).submit(
        functools.partial(os.stat, "/does/not/exist"), None
    )
    until(lambda: all(state.ended for state in states(submission).values()))
    assert len(list(tmp_path.glob("unasked-*"))) == expected
    assert (
        f"ended {'unasked ' if tries == 2 else ''}{expected} times" in submission.log(submission.job_ids[0]).read_text()
    )


def test_local_job_comes_back_after_the_signal(probe):
    call, logs, code = probe
    submission = Submitter(LOCAL, "probe", logs, code, 60).submit(call, None)
    until(lambda: len(starts(logs, 0)) == 1 and len(starts(logs, 1)) == 1)
    assert [state.word for state in states(submission).values()] == ["RUNNING"]
    for rank in (0, 1):
        os.kill(int(starts(logs, rank)[0].split(":")[0]), signal.SIGUSR2)
    until(lambda: all(state.ended for state in states(submission).values()))
    first, second = zip(*(starts(logs, rank) for rank in (0, 1)), strict=True)
    for attempt in (first, second):
        assert len({entry.split(":")[1] for entry in attempt}) == 1, "both ranks met at one port"
        assert {entry.split(":")[2] for entry in attempt} == {"2"}

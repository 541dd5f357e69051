"""A run on disk: one folder for what it publishes, one numbered folder for every job that was submitted for it."""

import getpass
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mvdiff.durable import write_json, write_text
from mvdiff.errors import InputError
from slurm.submission import Submission, states
from slurm.trust import refuse_foreign

PACKAGES = ("mvdiff", "slurm", "jobs", "configs")
RECORDED = ("torch", "diffusers", "accelerate", "submitit", "hydra-core", "h5py", "numpy", "transformers")
_SETTLED, _AFTER = "settled.yaml", "after.json"
_JOB = re.compile(r"\d{3}-.")
_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,128}")


PRIVATE, SHARED = 0o077, 0o027
"""Umasks: nobody else reads what a run's jobs write, or its group does; nobody else ever writes there."""


class Taken(InputError):
    """Another command was given the same job folder just now."""


@dataclass(frozen=True)
class Run:
    """``runs/NAME``: what its jobs publish lies at fixed places in it."""

    path: Path

    @classmethod
    def named(cls, root: str, name: str) -> "Run":
        """The run ``name`` below ``root``; it need not exist yet.

        Raises:
            InputError: the name could not be a folder's name everywhere.
        """
        if not _NAME.fullmatch(name):
            raise InputError(f"run={name!r} is not a name", "use letters, digits, dots, dashes, underscores")
        return cls(Path(root).expanduser().absolute() / name)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def shards(self) -> Path:
        return self.path / "shards"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def validation(self) -> Path:
        return self.path / "validation"

    @property
    def board(self) -> Path:
        return self.path / "tensorboard"

    @property
    def results(self) -> Path:
        return self.path / "results"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def umask(self) -> int:
        """Of whoever writes into the run: as its folder is, readable by its group or by its owner alone."""
        shared = self.path.exists() and stat.S_IMODE(self.path.stat().st_mode) & 0o077 == 0o050
        return SHARED if shared else PRIVATE

    def jobs(self) -> list["JobFolder"]:
        """Every submission so far, oldest first."""
        try:
            names = sorted(name for name in os.listdir(self.path / "jobs") if _JOB.match(name))  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [JobFolder(self, self.path / "jobs" / name) for name in names]

    def next_job(self, job: str, ahead: int = 0) -> "JobFolder":
        """Where the next submission of ``job`` goes, after ``ahead`` other ones; nothing is created."""
        numbers = [int(folder.path.name[:3]) for folder in self.jobs()]
        return JobFolder(self, self.path / "jobs" / f"{max(numbers, default=0) + 1 + ahead:03d}-{job}")


@dataclass(frozen=True)
class JobFolder:
    """``runs/NAME/jobs/NNN-JOB``: one submission, never written again by another one."""

    run: Run
    path: Path

    @classmethod
    def at(cls, path: Path) -> "JobFolder":
        """The one in the folder ``path``, of the run around it."""
        return cls(Run(path.parent.parent), path)

    @property
    def job(self) -> str:
        return self.path.name[4:]

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def events(self) -> Path:
        return self.path / "events"

    @property
    def code(self) -> Path:
        return self.path / "code"

    def create(self, config: DictConfig, words: Sequence[str], then: Sequence[tuple[str, Sequence[str]]] = ()) -> None:
        """Make the folder with config, provenance and a snapshot of the code, with the rights that the umask leaves.

        Args:
            words: what the job was given.
            then: jobs that the same command goes on to once this one is done, each with what it was given.

        Raises:
            Taken: another command made it first.
            InputError: the run folder is in somebody else's hands, or the disk refuses.
        """
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            raise Taken(
                f"{self.path} was made by another command just now", "see what it does, then start again"
            ) from None
        except OSError as error:
            raise InputError(f"cannot create {self.path}: {error.strerror}", "choose another runs= folder") from None
        try:
            self._fill(config, words, then)
        except OSError as error:
            self.discard()
            reason = error.strerror or "the disk refuses, is it full?"
            raise InputError(
                f"cannot write {self.path}: {reason}", "make room, or choose another runs= folder"
            ) from None

    def _fill(self, config: DictConfig, words: Sequence[str], then: Sequence[tuple[str, Sequence[str]]]) -> None:
        for folder in (self.logs, self.events):
            folder.mkdir()
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(config))
        told = {"job": self.job, "overrides": list(words), **provenance()}
        if then:
            told["then"] = [{"job": job, "overrides": list(given)} for job, given in then]
        write_json(self.path / "provenance.json", told)
        for package in PACKAGES:
            shutil.copytree(source_root() / package, self.code / package, ignore=shutil.ignore_patterns("__pycache__"))
        for path in (self.code, *self.code.rglob("*")):
            # the checkout's rights come along, which are nobody's promise
            path.chmod((0o777 if path.is_dir() else 0o666) & ~self.run.umask)

    def discard(self) -> None:
        """Remove the folder of a job that never came into a queue, and those around it where it was the first one."""
        shutil.rmtree(self.path, ignore_errors=True)
        for folder in (self.path.parent, self.run.path):
            with suppress(OSError):
                folder.rmdir()

    def config(self) -> DictConfig:
        """The resolved configuration this job was submitted with, or what has been settled of it since."""
        settled = self.path / _SETTLED
        loaded = OmegaConf.load(settled if settled.exists() else self.path / "config.yaml")
        assert isinstance(loaded, DictConfig)
        return loaded

    def follow(self, folders: Sequence["JobFolder"]) -> None:
        """Write down that the job begins once those of ``folders`` have ended: it is settled then, not before."""
        write_json(self.path / _AFTER, {"after": [str(folder.path) for folder in folders]})

    def follows(self) -> list["JobFolder"]:
        """The jobs that must have ended before this one begins."""
        try:
            paths = [Path(path) for path in json.loads((self.path / _AFTER).read_text())["after"]]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return []
        return list(map(JobFolder.at, paths))

    @property
    def unsettled(self) -> bool:
        """Whether the job was queued before its input was there, and none of its workers has looked at that yet."""
        return (self.path / _AFTER).exists() and not (self.path / _SETTLED).exists()

    def settle(self, config: DictConfig) -> None:
        """Write down what the job's first worker has found out, for all that start later."""
        write_text(self.path / _SETTLED, OmegaConf.to_yaml(config))

    def remember(self, submission: Submission) -> None:
        """Write down what the queue answered."""
        write_json(self.path / "submission.json", submission.to_json())

    def submission(self) -> Submission | None:
        """What the queue answered; None if the job never got that far, or it is damaged."""
        path = self.path / "submission.json"
        try:
            return Submission(**json.loads(path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def is_alive(self) -> bool:
        """Whether any of the jobs submitted from here may still run."""
        submission = self.submission()
        return submission is not None and not all(state.ended for state in states(submission).values())


def short(path: Path) -> str:
    """A path as a person in the working directory would write it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def source_root() -> Path:
    """The folder that holds this project's packages."""
    return Path(__file__).resolve().parent.parent


def provenance() -> dict[str, Any]:
    """Who started what, when, from which code, with which versions."""
    return {
        "command": sys.argv,
        "working_directory": str(Path.cwd()),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "user": getpass.getuser(),
        "host": platform.node(),
        "python": platform.python_version(),
        "commit": _commit(),
        "versions": {name: _version(name) for name in ("mvdiff", *RECORDED)},
    }


def _commit() -> str | None:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(source_root()), *words], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-modified" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def share(run: Run, group_readable: bool | None) -> None:
    """Set the umask with which this process and the run's jobs write, and open or close what lies in the run.

    Args:
        group_readable: whether the group shall read it; None: as the run is, at first its owner alone.

    Raises:
        RequestError: the run folder, or that of its jobs, is in others' hands.
    """
    wanted = run.umask if group_readable is None else SHARED if group_readable else PRIVATE
    os.umask(wanted)
    if not run.path.exists():
        return
    if run.path.stat().st_uid != os.getuid():
        refuse_foreign(run.path)
    if (run.path / "jobs").exists():
        refuse_foreign(run.path / "jobs")
    if wanted == SHARED and run.umask != SHARED:
        for path in run.path.rglob("*"):
            _open_to_group(path)
        _open_to_group(run.path)
    elif wanted == PRIVATE:
        run.path.chmod(stat.S_IMODE(run.path.stat().st_mode) & ~0o077)


def _open_to_group(path: Path) -> None:
    # A running job renames and deletes what it has written.
    with suppress(FileNotFoundError):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod((mode | (0o050 if mode & 0o100 else 0o040)) & ~0o027)

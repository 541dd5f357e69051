"""The words behind a command's name, and the runs and jobs that they mean."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from jobs.runfolder import JobFolder, Run
from mvdiff.errors import InputError


class Parser(argparse.ArgumentParser):
    """argparse's, telling mistakes as every command does."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message, f"see {self.prog} --help")


def parser(command: str) -> Parser:
    """For ``mvdiff COMMAND``, whose help is a text of its own."""
    return Parser(prog=f"mvdiff {command}", add_help=False, allow_abbrev=False)


def helped(words: Sequence[str], text: str) -> bool:
    """Whether ``words`` ask for help, which is printed then."""
    if "-h" in words or "--help" in words:
        print(text)
        return True
    return False


def named_run(word: str) -> Run:
    """The run ``word``: a name below runs/, or a run folder's path.

    Raises:
        InputError: nothing was submitted for such a run.
    """
    path = Path(word.removeprefix("run=")).expanduser()
    run = Run.named(str(path.parent if len(path.parts) > 1 else "runs"), path.name)
    if not run.jobs():
        raise InputError(f"nothing was submitted for a run in {run.path}", "see what there is: mvdiff status")
    return run


def named_job(run: Run, word: str | None) -> JobFolder:
    """The submission ``word`` of the run (``002-train``, its number alone, or ``train`` for the newest of these); None:
    its newest one.

    Raises:
        InputError: it has none of that name.
    """
    folders = run.jobs()
    numbered = f"{word.zfill(3)}-" if word and word.isdecimal() else None
    found = [
        folder
        for folder in folders
        if word in (None, folder.path.name, folder.job) or (numbered and folder.path.name.startswith(numbered))
    ]
    if not found:
        raise InputError(
            f"run {run.name} has no job {word}", f"choose --job from {', '.join(one.path.name for one in folders)}"
        )
    return found[-1]

"""The command line: `mvdiff JOB [key=value ...]`. Imports no torch, and Hydra only once a job is asked for."""

import argparse
import io
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import mvdiff
from jobs import JOBS, manual
from mvdiff.errors import Hopeless, InputError
from slurm.errors import RequestError

if TYPE_CHECKING:
    from jobs.launch import Request

_OVERRIDE = re.compile(r"[a-z_][\w.]*=")
WITH_PATH = ("verify", "export")
LOOKING_AFTER = ("status", "logs", "cancel", "retry", "show", "clean")
SUBMIT = (*JOBS, "demo", "retry", "doctor", "bench")
BY_ITSELF = (*LOOKING_AFTER, "cluster")
CHAINED = tuple(name for name in JOBS if name not in WITH_PATH)
OF_THE_CHAIN = ("--dry-run", "--wait", "--json")
SHORTHANDS = {"generate": ("limit", "ids", "shards", "generate.reference_view")}
"""Keys of a job that options stand for: ``--reference-view 0,2`` is ``generate.reference_view=0,2``."""


MEMORY = {"model", "train", "generate", "card", "measure"}
"""Keys of ``mvdiff doctor`` that ask for a model's memory."""


class _UntilClosed(io.TextIOBase):
    """Standard output whose reader may leave (``| head``): the command goes on, and its exit status stays true."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        return len(text)

    def isatty(self) -> bool:
        return self._stream.isatty()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 the job failed, 2 the request was wrong."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with redirect_stdout(_UntilClosed(sys.stdout)):
        return _told(words)


def _told(words: list[str]) -> int:
    refused: Exception | None = None
    try:
        return _run(words)
    except (InputError, RequestError) as error:
        refused, told = error, str(error)
    except UnicodeEncodeError as error:
        text = error.object[max(0, error.start - 40) : error.end + 40]
        told = f"{text!r} is not UTF-8: write it in UTF-8, or give the path another name"
    except OSError as error:
        told = f"{error.filename or 'a file'}: {error.strerror or error}: mend that and start again"
    except KeyboardInterrupt:
        told = "mvdiff: interrupted; a job that was already submitted goes on"
        print(told if words[0] in SUBMIT else "mvdiff: interrupted", file=sys.stderr)
        return 130
    lines = list(map(str, getattr(refused, "errors", []))) or [told]
    for line in lines:
        print(f"mvdiff: {' '.join(line.split())}", file=sys.stderr)
    if "--json" in words:
        more = {"errors": lines} if len(lines) > 1 else {}
        print(json.dumps({"state": "refused", "error": told, **more}))
    return 2


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(manual.overview(mvdiff.__version__))
        return 0
    if words[0] == "--version":
        print(f"mvdiff {mvdiff.__version__}")
        return 0
    command, rest = words[0], words[1:]
    if command == "verify" and "--repair" in rest and not {"-h", "--help"} & set(rest):
        return _repair(rest)
    if command in JOBS and "then" in rest:
        return _chain(words)
    if command in JOBS:
        return _job(command, rest)
    if command == "demo":
        from jobs.demo import demo

        return demo(rest)
    if command in ("doctor", "bench"):
        return _asked(command, rest)
    if command in BY_ITSELF:
        return _by_itself(command, rest)
    if command == "testbed":
        from jobs.testbed import testbed

        return testbed(rest)
    raise InputError(f"unknown command {command!r}", f"choose one of {', '.join(manual.SUMMARIES)}")


def _by_itself(name: str, words: list[str]) -> int:
    """A command that stands in the module of its name, its options and its help included."""
    command: Callable[[Sequence[str]], int] = getattr(import_module(f"jobs.{name}"), name)
    try:
        return command(words)
    except InputError:
        raise
    except Hopeless as error:
        return _failed(name, error, "--json" in words)


def _explained(name: str, words: list[str]) -> bool:
    """Whether ``words`` ask for help, which is printed then."""
    if "-h" in words or "--help" in words:
        print(manual.page(name))
    elif "--keys" in words:
        print(manual.keys(name, words))
    else:
        return False
    return True


def _parsed(name: str, words: list[str], *flags: str) -> argparse.Namespace:
    from jobs.parser import parser as parser_of

    parser = parser_of(name)
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    for key in SHORTHANDS.get(name, ()):
        parser.add_argument(f"--{key.rpartition('.')[2].replace('_', '-')}", dest=key)
    parser.add_argument("overrides", nargs="*")
    return parser.parse_intermixed_args(words)


def _job(name: str, words: list[str]) -> int:
    if _explained(name, words):
        return 0

    from jobs.job import JobFailed
    from jobs.launch import launch

    request = _request(name, words)
    try:
        return launch(request)
    except JobFailed as error:
        return _failed(name, error, request.as_json)


def _request(name: str, words: list[str]) -> "Request":
    parsed = _parsed(name, words, "--dry-run", "--wait", "--json")
    overrides = list(parsed.overrides)
    if name in WITH_PATH and overrides and "=" not in overrides[0]:
        overrides[0] = f"path={overrides[0]}"
    given = vars(parsed)
    overrides += [f"{key}={given[key]}" for key in SHORTHANDS.get(name, ()) if given[key] is not None]

    from jobs.launch import Request

    return Request(name, overrides, parsed.dry_run, parsed.wait, parsed.json)


def _chain(words: list[str]) -> int:
    """Jobs separated by the word ``then``; an option stands for all of them, wherever it is given."""
    options = [word for word in words if word in OF_THE_CHAIN]
    parts: list[list[str]] = [[]]
    for word in (word for word in words if word not in OF_THE_CHAIN):
        if word == "then":
            parts.append([])
        else:
            parts[-1].append(word)
    for part in parts:
        if not part or part[0] not in CHAINED:
            raise InputError(
                f"{part[0] if part else 'nothing'!r} is no job of a chain",
                f"say mvdiff JOB ... then JOB ..., each of {', '.join(CHAINED)}",
            )
        if _explained(part[0], part[1:]):
            return 0

    from jobs.chain import chain
    from jobs.job import JobFailed

    try:
        return chain([_request(part[0], [*part[1:], *options]) for part in parts])
    except JobFailed as error:
        return _failed("chain", error, "--json" in options)


def _repair(words: list[str]) -> int:
    parsed = _parsed("verify", words, "--repair", "--dry-run", "--wait", "--json")
    more = [word for word in parsed.overrides if _OVERRIDE.match(word) and not word.startswith("path=")]
    paths = [word.removeprefix("path=") for word in parsed.overrides if word not in more]
    if len(paths) != 1:
        raise InputError(f"verify --repair takes one path, not {len(paths)}", "say mvdiff verify PATH --repair")

    from jobs.job import JobFailed
    from jobs.repair import repair

    try:
        with redirect_stdout(sys.stderr if parsed.json else sys.stdout):
            return repair(Path(paths[0]).expanduser().absolute(), more, parsed.json, parsed.dry_run)
    except JobFailed as error:
        return _failed("verify", error, parsed.json)


def _asked(command: str, words: list[str]) -> int:
    if command == "doctor" and _about_a_cluster(words) and "--keys" not in words:
        from jobs import canaries

        if {"-h", "--help"} & set(words):
            print(canaries.page())
            return 0
        parsed = _parsed("doctor", words, "--json")
        return canaries.canaries(parsed.overrides, parsed.json)
    if _explained(command, words):
        return 0
    parsed = _parsed(command, words, "--json")

    from jobs.job import JobFailed

    try:
        return getattr(import_module(f"jobs.{command}"), command)(parsed.overrides, parsed.json)
    except JobFailed as error:
        return _failed(command, error, parsed.json)


def _about_a_cluster(words: list[str]) -> bool:
    """Whether the words of ``mvdiff doctor`` ask about a cluster, and not about a model's memory."""
    keys = {word.partition("=")[0].partition(".")[0] for word in words if "=" in word}
    chosen = [word.partition("=")[2] for word in words if word.startswith("cluster=")]
    return bool(chosen) and chosen[-1] != "here" and not keys & MEMORY


def _failed(name: str, error: Exception, as_json: bool) -> int:
    print(f"mvdiff {name}: {error}", file=sys.stderr)
    if as_json:
        print(json.dumps({"job": name, "state": "failed", "error": str(error)}))
    return 1


if __name__ == "__main__":
    sys.exit(main())

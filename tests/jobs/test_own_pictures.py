"""docs/your-own-pictures.md can be typed from its beginning to its end, and shows what is answered then."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from jobs.cli import main

pytestmark = pytest.mark.timeout(600)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "your-own-pictures.md"


class Step(NamedTuple):
    command: str
    shown: list[str]
    """Lines of its answer, ... for any."""


def steps() -> list[Step]:
    """The commands of the page in their order, with what it shows of their answers."""
    found: list[Step] = []
    for block in re.findall(r"(?:^    .*\n)+", PAGE.read_text(encoding="utf-8"), re.M):
        if not block.startswith("    $ "):
            continue
        inside_quotes = False
        for text in (line[4:] for line in block.splitlines()):
            if inside_quotes:
                found[-1] = Step(f"{found[-1].command}\n{text}", [])
                inside_quotes = text.count("'") % 2 == 0
            elif text.startswith("$ "):
                found.append(Step(text[2:], []))
                inside_quotes = text.count("'") % 2 == 1
            else:
                found[-1].shown.append(text)
    return found


def expected(shown: list[str]) -> str:
    """A regular expression for the answer; times and numbers of jobs are not the reader's."""
    lines = [r"(?:.*\n)*" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + r"\n" for line in shown]
    return "".join(lines)


def test_the_whole_page_as_it_stands(tmp_path, monkeypatch, capsys):
    tools = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "COLUMNS": "200"}
    commands = steps()
    assert len(commands) > 20
    for command, shown in commands:
        done = subprocess.run(
            [shutil.which("bash") or "bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        told = done.stdout
        refused = any(line.startswith("mvdiff: ") for line in shown)
        assert done.returncode == (2 if refused else 0), f"{command}\n{told}"
        if shown:
            assert re.fullmatch(expected(shown), told), f"{command}\n{told}"

    monkeypatch.chdir(tmp_path)
    album = ["run=lab", "data=runs/album/shards"]
    for asked, told in (
        (["evaluate", *album], "holds single pictures"),
        (
            ["evaluate", "run=lab", "data=runs/lab/shards/heldout", "train_data=runs/album/shards"],
            "holds single pictures",
        ),
        (["train", "run=new", "data=runs/lab/shards/train", "validation=runs/album/shards"], "holds single pictures"),
        (["generate", *album, "--reference-view", "0,2"], "generate.reference_view=2 is not known of single pictures"),
    ):
        assert main(asked) == 2
        assert told in capsys.readouterr().err

"""Every command that README, docs and CONTRIBUTING show is executed.

As it stands, or, where it would queue hours of work, with its checks and its batch script alone (``--dry-run``).
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cli import main
from tests.mvdiff.model.published import write_zero123plus

pytestmark = pytest.mark.timeout(600)  # of which whoever comes first prepares the laboratory

ROOT = Path(__file__).resolve().parents[2]
IN_ORDER = {"your-own-pictures.md": "tests/jobs/test_own_pictures.py"}
"""Pages that are typed from their beginning to their end there."""
PAGES = [
    page
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
    if page.name not in IN_ORDER
]
PLACES = {
    "PICTURES": "pictures",
    "WEIGHTS": "weights/zero123plus-v1.2",
    "RUN": "mice",
    "OTHER": "mice",
    "SITE": "slurm",
    "JOB": "train",
}
"""What stands for the reader's own."""
ELLIPSES = {"train": "run=mice data=runs/mice/shards/train"}
ELSEWHERE = {
    "mvdiff testbed": "tests/cluster/test_testbed.py",
    "mvdiff demo": "make demo",
    "mvdiff doctor cluster=SITE": "tests/cluster/test_canaries.py",
    "mvdiff cluster new": "tests/cluster/test_sites.py",
    "mvdiff bench": "tests/mvdiff/bench/test_bench.py",
    "mvdiff doctor model=zero123plus-v1.2": "tests/jobs/test_doctor.py",
    "mvdiff train run=mice data=... cluster=SITE then generate": "tests/cluster/test_chains.py",
    "mvdiff logs mice --failed": "tests/jobs/test_looking_after.py",
    "mvdiff logs mice --job train --rank 3": "tests/cluster/test_looking_after.py",
}
"""How commands begin that are executed there."""
REFUSED = {
    "mvdiff train run=wide data=runs/mice/shards/train train.steps=0 cluster=slurm cluster.partition=gpu": "steps=0",
    "mvdiff train ... model=zero123plus-v1.2 model.pretrained=WEIGHTS": "model.mapping=order",
    "mvdiff doctor train.micro_batch=2 measure=true": "needs a GPU",
}
"""Shown for what it answers, or not to be done here; and a part of the answer."""
QUEUED = {"synth", "pack", "train", "generate", "evaluate"}


def commands(page: str) -> list[str]:
    """The mvdiff commands in a page's blocks of code and in its lines, each once."""
    found = []
    joined = re.sub(r" *\\\n *", " ", page)
    # what stands before a dash is what the program says
    joined = re.sub(r"^- `(?:(?!\n\n|\n- ).)*? — ", "- ", joined, flags=re.M | re.S)
    for line in joined.splitlines():
        block = re.match(r"(?: {4,}|\$ )(?:\$ )?(mvdiff .*)", line)
        if block:
            # behind a gap stands what the command does, unless it is one more of its words
            found.append(re.split(r"\s{3,}(?!\s|[\w.]+=|-)|\s+#", block[1])[0])
    found += [
        span for span in re.findall(r"`(mvdiff [^`]+)`", joined) if span.count(" ") > 1 or span == "mvdiff status"
    ]
    return list(dict.fromkeys(" ".join(one.split()) for one in found))


CASES = [(page.name, command) for page in PAGES for command in commands(page.read_text())]


def words(command: str) -> list[str]:
    """The words of a command, with what stands for the reader's own put in."""
    name, *rest = shlex.split(command)[1:]
    text = shlex.join([name, *rest]).replace("...", ELLIPSES.get(name, ""))
    for place, ours in PLACES.items():
        text = re.sub(rf"\[?\b{place}\b\]?", ours, text)
    submits = name in QUEUED and not {"--help", "--keys"} & set(rest)
    more = ["--dry-run"] if submits and "--dry-run" not in rest else []
    # a page may show two ways of training the same run
    more += ["runs=fresh"] if submits and name == "train" else []
    return [*shlex.split(text), *more]


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    """A folder to submit from: pictures, shards, a trained run with results and a report, another one, weights."""
    folder = tmp_path_factory.mktemp("laboratory")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["synth", "run=mice", "samples=16", "held_out=4", "--wait"]) == 0
        for run in ("mice", "mice-slow"):
            train = ["train", f"run={run}", "data=runs/mice/shards/train", "train.steps=1"]
            assert main([*train, "--wait"]) == 0
        made = ["run=mice", "data=runs/mice/shards/heldout"]
        assert main(["generate", *made, "generate.steps=1", "--wait"]) == 0
        assert main(["evaluate", *made, "--wait"]) == 0
        assert main(["export", "runs/mice/shards/train", "out=pictures", "format=facelift"]) == 0
        write_zero123plus(folder / "weights" / "zero123plus-v1.2")
    return folder


@pytest.mark.parametrize(("page", "command"), CASES, ids=[f"{page}: {command}" for page, command in CASES])
def test_it_is_a_command_that_works(page, command, laboratory, monkeypatch, capsys):
    monkeypatch.chdir(laboratory)
    if elsewhere := next((where for begin, where in ELSEWHERE.items() if command.startswith(begin)), None):
        pytest.skip(f"executed by {elsewhere}")
    asked = words(command)
    if "--dry-run" in asked:
        # what a queue would say to it is asked on the test cluster
        monkeypatch.setenv("PATH", "")
    shutil.rmtree(laboratory / "views", ignore_errors=True)
    status, told = main(asked), capsys.readouterr().err
    if command in REFUSED:
        assert status == 2 and REFUSED[command] in told
    else:
        assert status == 0, told


def test_pages_and_tables_name_commands_that_there_are():
    shown = {command for _, command in CASES}
    assert {"README.md", "generation.md", "model.md", "running.md", "training.md"} <= {page for page, _ in CASES}
    assert set(REFUSED) <= shown
    assert all(any(command.startswith(begin) for command in shown) for begin in ELSEWHERE if begin != "mvdiff demo")


@pytest.mark.parametrize("page", ["metrics.md", "extending.md"])
def test_its_python_runs(page, laboratory):
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.S)
    assert code
    for one in code:
        done = subprocess.run([sys.executable, "-c", one], cwd=laboratory, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stdout.strip(), done.stderr


LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """What links can name of the page: its headings in lower case, with dashes for spaces."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        there = page.parent / path if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target

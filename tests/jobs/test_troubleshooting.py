"""docs/troubleshooting.md explains every error line that the program can print, and none that it cannot.

The lines are found in the syntax trees of the three rooms: every place that makes one of their exceptions, with the
string that it is given. Where a line has a value filled in, the page has a word in capitals.
"""

import ast
import re
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
SAYS = {"DamagedShard": (1, "[A-Z]+ "), "CorruptRow": (3, r"[A-Z]+ row [A-Z]+ \([A-Z]+\): ")}
"""Which argument says what is wrong, where it is not the first, and what these exceptions put before it."""
PASSED_ON = {
    ("mvdiff/errors.py", "found"): "the errors of several looks",
    ("slurm/errors.py", "found"): "the same of a site's keys",
    ("jobs/testbed.py", "str(error)"): "argparse's words",
    ("jobs/parser.py", "message"): "argparse's words",
    ("jobs/compose.py", "_first_line(error)"): "Hydra's words",
    ("mvdiff/generate/inputs.py", "error.what"): "an error of the reader",
    ("mvdiff/generate/worker.py", "told"): "the sampler's last exception",
    ("mvdiff/shard/handle.py", "problem"): "what the functions around it return",
    ("mvdiff/shard/reader.py", "str(error)"): "an error of a sample",
    ("mvdiff/portrait.py", "f'{where}{error.what}'"): "an error of a picture",
    ("mvdiff/survey.py", "error.what"): "an error of a sample",
    ("mvdiff/train/trainer.py", "problem"): "an error of a save",
    ("mvdiff/train/world.py", "told['what']"): "an error of rank 0",
    ("slurm/command.py", "what"): "what SLURM said",
    ("jobs/scaling.py", "first_error(folder, ended)"): "the error of a measurement's job",
    ("jobs/compose.py", "f'{key}: {_first_line(error)}'"): "Hydra's words",
    ("jobs/compose.py", "f'{key}{_first_line(error)}'"): "Hydra's words",
    ("mvdiff/pack.py", "f'{error.filename or out}: {error.strerror or error}'"): "an error of the disk",
    ("jobs/shards.py", "f'{bad[0]}{more}'"): "what verify said of the first row",
    ("mvdiff/generate/trial.py", "f'{type(error).__name__}: {error}'"): "an error of the GPU",
    ("mvdiff/model/pretrained/jsonfile.py", "f'{self.path} {said}'"): "what stands in the file",
    ("mvdiff/shard/index.py", "f'{next(iter(unreadable.values()))}{more}'"): "why the first shard cannot be read",
}
"""Words that are made elsewhere."""
SLOT = "[A-Z]+"
LETTERS = 4
"""So many letters of its own a string must have to be told from others."""


class Line(NamedTuple):
    """What one place can print."""

    where: str
    pattern: str
    """Matches the line as the page may write it."""
    proposed: str
    """The line with a placeholder for each value."""


def trees() -> dict[str, ast.Module]:
    paths = [path for room in ("mvdiff", "slurm", "jobs") for path in sorted((ROOT / room).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


TREES = trees()


def name_of(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


@cache
def exceptions() -> set[str]:
    """Names of the exceptions that the rooms define."""
    classes = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    bases = {one.name: {name_of(base) for base in one.bases} for one in classes}
    found = {"Exception"}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    return found & bases.keys()


@cache
def constants() -> dict[str, set[str]]:
    """Values of the modules' constants that are text or numbers, by name."""
    found: dict[str, set[str]] = {}
    for tree in TREES.values():
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                for target in node.targets:
                    found.setdefault(name_of(target), set()).add(str(node.value.value))
    return found


def pattern(node: ast.expr) -> str:
    """A regular expression for what the page may write for the text ``node``."""
    match node:
        case ast.Constant():
            return re.escape(str(node.value))
        case ast.JoinedStr():
            parts = [pattern(value) for value in node.values]
            # behind another value a further one may be empty: ", and 3 more"
            for k, (before, after) in enumerate(pairwise(node.values), 1):
                if isinstance(before, ast.FormattedValue) and isinstance(after, ast.FormattedValue):
                    parts[k] += "?"
            return "".join(parts)
        case ast.FormattedValue():
            return f"'?(?:{pattern(node.value)})'?" if node.conversion == ord("r") else f"(?:{pattern(node.value)})"
        case ast.IfExp():
            return f"(?:{pattern(node.body)}|{pattern(node.orelse)})"
        case ast.BoolOp():
            return "(?:" + "|".join(map(pattern, node.values)) + ")"
        case ast.Name() | ast.Attribute():
            return "|".join([SLOT, *map(re.escape, constants().get(name_of(node), ()))])
    return SLOT


def proposed(node: ast.expr) -> str:
    """The text ``node`` with words in capitals for what is filled in."""
    match node:
        case ast.Constant():
            return str(node.value)
        case ast.JoinedStr():
            return "".join(map(proposed, node.values))
        case ast.FormattedValue():
            return proposed(node.value)
        case ast.IfExp():
            return proposed(node.body)
    return re.sub("[^A-Z]", "", ast.unparse(node).upper())[:12] or "VALUE"


def own_letters(node: ast.expr) -> int:
    """Letters that the source itself puts into the text ``node``."""
    match node:
        case ast.Constant(value=str(text)):
            return sum(map(str.isalpha, text))
        case ast.JoinedStr():
            return sum(map(own_letters, node.values))
        case ast.FormattedValue():
            return own_letters(node.value)
        case ast.IfExp():
            return max(own_letters(node.body), own_letters(node.orelse))
        case ast.BoolOp():
            return max(map(own_letters, node.values))
    return 0


def error_lines() -> tuple[list[Line], Counter[tuple[str, str]]]:
    """What the exceptions of the rooms are made with; and the expressions that have no words of their own, by file."""
    lines, passed_on = [], Counter[tuple[str, str]]()
    for path, tree in TREES.items():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            kind = name_of(call.func)
            of_the_same_kind = ast.unparse(call.func) == "type(error)"
            if not call.args or not (kind in exceptions() or of_the_same_kind):
                continue
            number, before = SAYS.get(kind, (0, ""))
            text = call.args[number]
            texts = [text.body, text.orelse] if isinstance(text, ast.IfExp) else [text]
            for one in texts:
                if own_letters(one) > 1:
                    lines.append(Line(f"{path}:{call.lineno}", before + pattern(one), proposed(one)))
                else:
                    passed_on[path, ast.unparse(one)] += 1
    return lines, passed_on


@cache
def entries() -> dict[str, str]:
    """The page's cures by the lines that they stand behind: list items of the form "- `LINE`, `LINE` — cure"."""
    found: dict[str, str] = {}
    twice: set[str] = set()
    for item in re.findall(r"^- (`.*?)(?=\n- |\n\n|\n#|\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        head, dash, cure = " ".join(item.split()).partition(" — ")
        assert dash, f"no cure behind {head}"
        for line in re.findall(r"``\s?(.+?)\s?``|`([^`]+)`", head):
            text = "".join(line)
            twice |= {text} & found.keys()
            found[text] = cure
    assert not twice, "explained twice\n" + "\n".join(twice)
    return found


def test_every_error_line_is_explained():
    lines, _ = error_lines()
    assert len(lines) > 300
    missing = [line for line in lines if not any(re.fullmatch(line.pattern, one) for one in entries())]
    assert not missing, "docs/troubleshooting.md lacks\n" + "\n".join(
        f"{one.where}  `{one.proposed}`" for one in missing
    )


def test_nothing_is_explained_that_is_not_printed():
    patterns = {line.pattern for line in error_lines()[0]}
    for tree in TREES.values():
        texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant | ast.JoinedStr))
        patterns |= {pattern(node) for node in texts if own_letters(node) >= LETTERS}
    # a shard's problems are found by functions, and told behind its path
    printed = [re.compile(f"(?:PATH )?(?:{one})") for one in patterns]
    stale = [one for one in entries() if not any(each.fullmatch(one) for each in printed)]
    assert not stale, "docs/troubleshooting.md explains what nothing prints\n" + "\n".join(stale)


def test_words_from_elsewhere_are_known():
    _, passed_on = error_lines()
    assert passed_on.keys() == PASSED_ON.keys()


def test_cures_say_more_than_a_word():
    assert [line for line, cure in entries().items() if len(cure.split()) < 3] == []

"""Which samples of a data set somebody asks for, as words of a command line say it."""

import json
from collections.abc import Sequence
from json import JSONDecodeError
from pathlib import Path

from mvdiff.errors import InputError, counted
from mvdiff.shard import ShardIndex


def listed(text: str, key: str) -> list[str]:
    """The names that ``text``, the value of ``key``, lists: ``a,b,c``, or ``@FILE`` with one a line.

    A name that begins with a double quote is a JSON string, so that one with commas or newlines can be written. Raises
    ``InputError`` for a file that cannot be read, a string that is none, and no names.
    """
    if text.startswith("@"):
        path = Path(text.removeprefix("@")).expanduser()
        try:
            # Not splitlines, and no universal newlines: what else ends a line may be part of a name.
            lines = path.read_bytes().decode("utf-8-sig").split("\n")
        except OSError as error:
            raise InputError(f"{key}={text} cannot be read ({error.strerror})", f"give {key}=@FILE") from None
        except UnicodeDecodeError:
            raise InputError(f"{path} is not UTF-8", "write one name a line in UTF-8") from None
        names = [_line(line.removesuffix("\r"), f"{path} line {k}") for k, line in enumerate(lines, 1) if line.strip()]
    else:
        names = _separated(text, key)
    if not names:
        raise InputError(f"{key}={text} names nothing", f"give {key}=A,B or {key}=@FILE")
    return names


def _line(line: str, where: str) -> str:
    if not line.startswith('"'):
        return line
    try:
        name = json.loads(line)
    except JSONDecodeError as error:
        raise _no_string(where, error) from None
    return str(name)


def _separated(text: str, key: str) -> list[str]:
    names, at = [], 0
    while at < len(text):
        if text[at] == '"':
            try:
                name, end = json.JSONDecoder().raw_decode(text, at)
            except JSONDecodeError as error:
                raise _no_string(f"{key}={text}", error) from None
            if end < len(text) and text[end] != ",":
                raise InputError(f"{key}={text} has something behind {text[at:end]}", "put a comma between names")
        else:
            name = text[at:].partition(",")[0]
            end = at + len(name)
        names.append(name)
        at = end + 1
    return [name for name in names if name]


def _no_string(where: str, error: JSONDecodeError) -> InputError:
    return InputError(
        f"{where} begins with a double quote and is no JSON string ({error.msg})",
        r"""write the name as JSON does, such as "two\nlines" """.strip(),
    )


def choose(index: ShardIndex, ids: Sequence[str] | None, limit: int | None) -> tuple[Sequence[int], list[str]]:
    """Positions in ``index``, rising, of the samples called ``ids`` (None: all), of those the first ``limit``; and the
    ids that may lie in its unreadable shards, for no other one holds them.

    Raises ``InputError`` for ids that are in no shard.
    """
    if ids is None:
        return range(len(index) if limit is None else min(limit, len(index))), []
    where = {sample_id: i for i, sample_id in enumerate(index.ids)}
    positions = sorted({where[sample_id] for sample_id in ids if sample_id in where})
    unknown = [sample_id for sample_id in ids if sample_id not in where]
    if unknown and not (positions and index.unreadable):
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        if index.unreadable:
            more += f", and {counted(len(index.unreadable), 'shard')} cannot be read, as {next(iter(index.unreadable))}"
        raise InputError(
            f"no sample is called {unknown[0][:200]!r}{more}", "give ids of the data set, as ids=A,B or ids=@FILE"
        )
    return positions[:limit], unknown

"""What goes wrong because of what was asked or given, as opposed to a bug."""

from collections.abc import Iterable, Sequence


def one_line(text: str) -> str:
    """``text`` for one line that people read: what is no printable character (a newline, a terminal's control codes,
    half of a surrogate pair) is written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def counted(number: int, one: str, many: str = "") -> str:
    """``number`` and the words for it: ``one``, or ``many``, which is ``one`` with an s unless it is given."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


class Hopeless(Exception):
    """What another attempt with the same input would meet again: a job that ends so does not start again by itself."""


class InputError(Hopeless):
    """Wrong input, told in one line: what is wrong, where, and what mends it.

    The command line prints ``str(error)`` and exits with status 2; no traceback is shown for it. Whatever names and
    paths of others stand in it, it stays one line.
    """

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what, mend)
        self.what = one_line(what)
        self.mend = one_line(mend)

    def __str__(self) -> str:
        return f"{self.what}: {self.mend}"


class Refusals(InputError):
    """Several things are wrong, each told in a line of its own."""

    def __init__(self, errors: Sequence[Exception]) -> None:
        super().__init__(f"{len(errors)} things are wrong", "mend each of them")
        self.errors = list(errors)

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))


def refuse(errors: Iterable[Exception]) -> None:
    """Raise what is wrong, if anything is: the one error, or ``Refusals`` with all of them."""
    found = list(errors)
    if len(found) == 1:
        raise found[0]
    if found:
        raise Refusals(found)

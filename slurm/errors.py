"""What goes wrong because of what was asked of the queue, as opposed to a bug."""

from collections.abc import Iterable, Sequence


def counted(number: int, one: str) -> str:
    """``number`` and the word for it, which takes an s."""
    return f"{number} {one}{'' if number == 1 else 's'}"


class RequestError(Exception):
    """A request that cannot be met, told in one line: what is wrong, and what mends it.

    The command line prints ``str(error)`` and exits with status 2; no traceback is shown for it.
    """

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what, mend)
        self.what = what
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.what}: {self.mend}"


class Unanswered(RequestError):
    """The queue gave no answer this time, which the next attempt may get. What was asked for may have been done."""


class Full(Unanswered):
    """The queue as a whole has no room; it may have room for less, or soon."""


class Refused(RequestError):
    """A limit of the user's, account's or QOS's allows no more jobs; it may allow fewer."""


class Refusals(RequestError):
    """Several things are wrong, each told in a line of its own."""

    def __init__(self, errors: Sequence[RequestError]) -> None:
        super().__init__(f"{len(errors)} things are wrong", "mend each of them")
        self.errors = list(errors)

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))


def refuse(errors: Iterable[RequestError]) -> None:
    """Raise what is wrong, if anything is: the one error, or ``Refusals`` with all of them."""
    found = list(errors)
    if len(found) == 1:
        raise found[0]
    if found:
        raise Refusals(found)

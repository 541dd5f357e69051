"""What goes wrong because of what was asked of the queue, as opposed to a bug."""


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

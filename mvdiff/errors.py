"""What goes wrong because of what was asked or given, as opposed to a bug."""


class Hopeless(Exception):
    """What another attempt with the same input would meet again: a job that ends so does not start again by itself."""


class InputError(Hopeless):
    """Wrong input, told in one line: what is wrong, where, and what mends it.

    The command line prints ``str(error)`` and exits with status 2; no traceback is shown for it.
    """

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what, mend)
        self.what = what
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.what}: {self.mend}"

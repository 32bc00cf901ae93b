"""The one exception that means "the user can mend this"."""


class InputError(ValueError):
    """Bad parameters, files or data. Each argument is one problem: it names the thing and what would be right."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


def reason(error: BaseException) -> str:
    """First line of an exception's message (libraries often append pages of advice)."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

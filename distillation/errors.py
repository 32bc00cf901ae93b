"""The one exception that means "the user can mend this"."""


class InputError(ValueError):
    """Bad parameters, files or data; its message names the offending thing and what would be right."""


def reason(error: BaseException) -> str:
    """First line of an exception's message (libraries often append pages of advice)."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

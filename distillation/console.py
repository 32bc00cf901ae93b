"""What a stage shows in the terminal, and how it ends."""

import sys
from collections.abc import Callable

from tqdm import tqdm

from distillation.errors import InputError
from distillation.params import Params, load_params


def run(stage: Callable[[Params], str]) -> None:
    """Run a stage on the validated parameters and print the line of result that it returns.

    An `InputError` ends the process with one line on standard error and exit status 1; anything
    else is a defect and keeps its traceback.
    """
    try:
        print(stage(load_params()), flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def progress(items, total: int, what: str):
    """Iterate over `items` behind a progress bar with ETA; silent where nobody watches."""
    return tqdm(items, total=total, desc=what, leave=False, disable=None, mininterval=0.5)

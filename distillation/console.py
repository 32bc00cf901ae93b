"""What a stage shows in the terminal, and how it ends."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import tensorflow as tf
from tqdm import tqdm

from distillation.errors import InputError, reason
from distillation.params import Params, load_params

# A folder that may not be written, a full disk, too little memory; TensorFlow has names of its own for them.
MACHINE_ERRORS = (OSError, MemoryError, tf.errors.PermissionDeniedError, tf.errors.ResourceExhaustedError)
WORTH_A_LINE = 3  # seconds that a loop takes before a log gets a line about it


def run(stage: Callable[[Params], str]) -> None:
    """Run a stage on the validated parameters and print the line of result that it returns.

    An `InputError`, an error of the machine, or Ctrl-C ends the process with exit status 1 and a line for each problem
    on standard error. Any other exception is a defect and keeps its traceback.
    """
    try:
        print(stage(load_params()), flush=True)
    except InputError as error:
        _fail(*(" ".join(str(problem).split()) for problem in error.args))  # names of files may hold line breaks
    except MACHINE_ERRORS as error:
        _fail(reason(error))
    except KeyboardInterrupt:
        _fail("interrupted; run it again to go on")


def note(line: str) -> None:
    """Print a line of progress on standard error; none under continuous integration (`CI` is set)."""
    if not os.environ.get("CI"):
        print(line, file=sys.stderr, flush=True)


def warn(line: str) -> None:
    """Print a warning on standard error: the stage goes on, but the user should know."""
    print(f"warning: {line}", file=sys.stderr, flush=True)


def progress(items: Iterable, total: int, label: str) -> Iterator:
    """Iterate over `items` with a progress bar and its ETA; a log file gets a line at the end instead.

    Under continuous integration (`CI` is set) there is neither.
    """
    start = time.monotonic()
    hidden = True if os.environ.get("CI") else None  # None: where there is no terminal
    yield from tqdm(items, total=total, desc=label, leave=False, disable=hidden, mininterval=0.5)
    if not sys.stderr.isatty() and (seconds := time.monotonic() - start) > WORTH_A_LINE:
        note(f"{label}: {seconds:.0f} s")


def _fail(*messages: str) -> None:
    for message in messages:
        print(f"error: {message}", file=sys.stderr)
    sys.exit(1)

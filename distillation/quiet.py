"""Hiding lines that libraries write to standard error on every run."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_lines(*words: str) -> Iterator[None]:
    """Keep lines that contain any of `words` from standard error; other lines follow at the end of the block.

    It works on the file descriptor, since C++ code does not write through `sys.stderr`.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            said.seek(0)
            for line in said.read().decode(errors="replace").splitlines():
                if not any(word in line for word in words):
                    print(line, file=sys.stderr)

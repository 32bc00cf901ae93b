"""Examples on their way to the records: written to disk as they come, and read back in order.

They lie in buckets by the start of their ids. Sorting one bucket after the other sorts them all, with one of them in
memory at a time.
"""

import pickle
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from distillation.data.splits import Example

_DIGITS = 2  # of an id, which name a bucket: 256 of them


class Spool:
    """A folder of buckets, and what is known of the examples in them, as arrays in the same order.

    `ids` (n,) uint64, `splits` (n,) int8, `labels` (n,) int32 and `hashes` (n,) uint64, a perceptual hash of each.
    """

    def __init__(self, directory: Path, examples: Iterable[tuple[Example, int]]):
        """Write `examples`, each with its hash, to `directory`, which is made."""
        directory.mkdir(parents=True)
        self._buckets = [directory / f"{number:0{_DIGITS}x}" for number in range(16**_DIGITS)]
        files = [path.open("wb") for path in self._buckets]
        columns = [array(kind) for kind in "QbiQ"]
        try:
            for example, perceptual in examples:
                pickle.dump(example, files[int(example.id[:_DIGITS], 16)])
                row = (int(example.id, 16), example.split, example.label, perceptual)
                for column, value in zip(columns, row, strict=True):
                    column.append(value)
        finally:
            for file in files:
                file.close()
        columns = [np.frombuffer(column, column.typecode) for column in columns]
        order = np.lexsort(columns[2::-1])
        # One after the other, so that the memory of those that came unordered is free again.
        self.ids, self.splits, self.labels, self.hashes = (columns.pop(0)[order] for _ in range(len(columns)))

    def __iter__(self) -> Iterator[Example]:
        """The examples in order of id, split, label and source."""
        for path in self._buckets:
            yield from sorted(_read(path), key=lambda one: (one.id, one.split, one.label, one.source))


def _read(path: Path) -> Iterator[Example]:
    with path.open("rb") as file:
        while file.peek(1):
            yield pickle.load(file)

"""Examples on their way to the records: made of images, written to disk as they come, and read back in order.

On disk they lie in buckets by the start of their ids. Sorting one bucket after the other sorts them all, with one of
them in memory at a time.
"""

import functools
import pickle
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from distillation import cluster
from distillation.data.splits import NO_SPLIT, SPLITS, UNLABELED, Example, image_id
from distillation.errors import InputError
from distillation.parallel import map_in_order
from distillation.params import Data
from distillation.sources.images import perceptual_hash, square_jpeg
from distillation.sources.open import Original

TASK = 64  # images that a node of a cluster decodes at a time; fewer where they are large
TASK_BYTES = 2**24
_DIGITS = 3  # of an id, in hexadecimal, which name a bucket: a million photographs are 20 GB, and 5 MB in each
MOST_NAMED = 1000  # images that can't be read: all are tried before the stage ends, so all can be mended at once


def stored(images: Iterable[Original], classes: list[str], data: Data) -> Iterator[tuple[Example, int]]:
    """Each of `images` as it is stored, with its perceptual hash, in their order; several are on their way at a time.

    Where `RAY_ADDRESS` names a Ray cluster, its nodes decode and encode them, else this machine's cores.
    Raises `InputError` where a label is not of `classes`, and, after all images, where some can't be read: it has a
    problem for each.
    """
    problems = []
    for result in _results(images, (classes, data)):
        if isinstance(result, InputError):
            problems.append(result)
        else:
            yield result
    if problems:
        more = len(problems) - MOST_NAMED
        raise InputError(*problems[:MOST_NAMED], *([f"{more:,} more images cannot be read"] if more > 0 else []))


def _results(
    images: Iterable[Original], settings: tuple[list[str], Data]
) -> Iterator[tuple[Example, int] | InputError]:
    if not cluster.wanted():
        yield from map_in_order(functools.partial(_stored, settings), images)
        return
    with cluster.connected():
        for examples in cluster.map_in_order(_all_stored, settings, _tasks(images), "prepare"):
            yield from examples


def _tasks(images: Iterable[Original]) -> Iterator[list[Original]]:
    """Lists of images: a task ends with the image that makes it `TASK` images or `TASK_BYTES`."""
    task, size = [], 0
    for image in images:
        task.append(image)
        size += len(image.encoded)
        if len(task) == TASK or size >= TASK_BYTES:
            yield task
            task, size = [], 0
    if task:
        yield task


def _all_stored(settings: tuple[list[str], Data], images: list[Original]) -> list[tuple[Example, int] | InputError]:
    return [_stored(settings, image) for image in images]


def _stored(settings: tuple[list[str], Data], image: Original) -> tuple[Example, int] | InputError:
    """The image as it is stored, and its hash; or why it can't be read."""
    classes, data = settings
    label, split = (UNLABELED, NO_SPLIT) if image.label is None else (image.label, SPLITS.index(image.split))
    if image.label is not None and not 0 <= label < len(classes):
        raise InputError(f"{image.source} has label {label}; it should be one of 0..{len(classes) - 1}")
    try:
        jpeg = square_jpeg(image.encoded, data.image_size, data.oblong)
        if jpeg == image.encoded:  # not encoded anew: TensorFlow refuses some damaged files that Pillow reads
            tf.io.decode_jpeg(jpeg, channels=3)
    except InputError as error:
        return InputError(f"{image.source}: {error}")
    except tf.errors.InvalidArgumentError:
        return InputError(f"{image.source}: cannot be decoded (damaged JPEG)")
    return Example(image_id(image.encoded), label, image.source, jpeg, split), perceptual_hash(jpeg)


class Spool:
    """A folder of buckets, and what is known of the examples in them, as arrays in the same order.

    `ids` (n,) uint64, `splits` (n,) int8, `labels` (n,) int32 and `hashes` (n,) uint64, a perceptual hash of each.
    """

    def __init__(self, directory: Path, examples: Iterable[tuple[Example, int]]):
        """Write `examples`, each with its hash, to `directory`, which is made."""
        directory.mkdir(parents=True)
        self._directory = directory
        columns = [array(kind) for kind in "QbiQ"]
        for example, perceptual in examples:
            # Opened each time: to hold 4,096 files open is more than systems allow a process.
            with (directory / example.id[:_DIGITS]).open("ab") as file:
                pickle.dump(example, file)
            row = (int(example.id, 16), example.split, example.label, perceptual)
            for column, value in zip(columns, row, strict=True):
                column.append(value)
        columns = [np.frombuffer(column, column.typecode) for column in columns]
        order = np.lexsort(columns[2::-1])
        # One after the other, so that the memory of those that came unordered is free again.
        self.ids, self.splits, self.labels, self.hashes = (columns.pop(0)[order] for _ in range(len(columns)))

    def __iter__(self) -> Iterator[Example]:
        """The examples in order of id, split, label and source."""
        for path in sorted(self._directory.iterdir()):
            yield from sorted(_read(path), key=lambda one: (one.id, one.split, one.label, one.source))


def _read(path: Path) -> Iterator[Example]:
    with path.open("rb") as file:
        while file.peek(1):
            yield pickle.load(file)

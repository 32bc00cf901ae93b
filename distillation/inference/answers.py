"""The cache of the teacher's answers: named arrays in parts of consecutive answers.

Answer number `view * images + i` is the answer to view `view` of training image i, in id order. A part is a folder of
`PART` consecutive answers (the last part has fewer), with an `.npy` file for each output. A part is written whole or
not at all. So a killed run goes on after its last part, and several machines can make parts.
"""

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from distillation.errors import InputError, reason
from distillation.files import replacing

ANSWERS = Path("data/teacher_answers")
PART = 4096  # answers: a multiple of `forward.BATCH`
MEASURED = 4  # batches, whose time a forecast is made from

Arrays = dict[str, np.ndarray]


def part_path(directory: Path, number: int) -> Path:
    """The folder of part `number`."""
    return directory / f"part-{number:05d}"


def forecast(forward: Callable[[np.ndarray], Arrays], images: tf.data.Dataset, answers: int) -> str:
    """A line about what so many `answers` take: disk space, and time as measured on the first few batches.

    Raises `InputError` where the disk has no room for them and for the copy that DVC keeps.
    """
    first, *batches = images.take(1 + MEASURED).as_numpy_iterator()
    size = sum(values.nbytes for values in as_stored(forward(first)).values()) / len(first) * answers
    start = time.monotonic()
    measured = sum(len(forward(batch)["logits"]) for batch in batches)
    minutes = (time.monotonic() - start) / measured * answers / 60 if measured else 0
    free = shutil.disk_usage(".").free
    if 2 * size > free:
        raise InputError(
            f"{answers:,} answers take {size / 1e9:,.1f} GB, and DVC's copy as much again, but {free / 1e9:,.1f} GB "
            "are free on the disk: make room, or lower budget.answered or distill.feature_channels"
        )
    space = f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
    return f"{answers:,} answers, {space}, about {max(1, round(minutes)):,} min"


def whole_parts(directory: Path) -> int:
    """How many parts of a killed run lie in `directory`, from the first on.

    One that cannot be opened ends them: after a power cut, files may be empty that had a name already.
    """
    for number in itertools.count():
        files = [*part_path(directory, number).glob("*.npy")]
        try:
            lengths = {len(_open(file)) for file in files}
        except InputError:
            return number
        if len(lengths) != 1:
            return number


def write_parts(directory: Path, first: int, batches: Iterable[Arrays]) -> None:
    """Write the answers of `batches`, all of one size but the last, as parts from number `first` on."""
    number, waiting = first, []
    for batch in batches:
        waiting.append(as_stored(batch))
        if len(waiting) * len(waiting[0]["logits"]) == PART:
            _write_part(part_path(directory, number), joined(waiting))
            number, waiting = number + 1, []
    if waiting:
        _write_part(part_path(directory, number), joined(waiting))


def as_stored(answers: Arrays) -> Arrays:
    """Answers in the types in which they are stored: logits in float32, feature maps in float16."""
    return {name: values.astype(np.float32 if name == "logits" else np.float16) for name, values in answers.items()}


def joined(batches: Sequence[Arrays]) -> Arrays:
    """One after the other."""
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _write_part(path: Path, answers: Arrays) -> None:
    with replacing(path) as temporary:
        temporary.mkdir()
        for name, values in answers.items():
            # Given a path, `np.save` gives no reason when the disk is full; a Python file does.
            with (temporary / f"{name}.npy").open("wb") as file:
                np.save(file, values)


class Answers:
    """The cached answers to `views` views of `images` training images.

    `shapes` has each output's shape for one answer. Raises `InputError` where a part is missing, broken, or does
    not fit the others.
    """

    def __init__(self, views: int, images: int, directory: Path = ANSWERS):
        self.images, self.directory = images, directory
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype] = {}
        names = {"logits", *(path.stem for path in directory.glob("part-*/*.npy"))}
        for number in range(-(-views * images // PART)):
            length = min(PART, views * images - number * PART)
            for name in sorted(names):
                path = part_path(directory, number) / f"{name}.npy"
                array = _open(path)
                shape = self.shapes.setdefault(name, array.shape[1:])
                dtype = self.dtypes.setdefault(name, array.dtype)
                if array.shape != (length, *shape) or array.dtype != dtype:
                    raise InputError(
                        f"{path} has {array.dtype} of shape {array.shape}, should have "
                        f"{dtype} of shape {(length, *shape)}: run `dvc repro`"
                    )

    def dataset(self, view: tf.Tensor, names: Sequence[str]) -> tf.data.Dataset:
        """The outputs `names` of the teacher for view number `view` (scalar int64) of every image, in id order."""
        start = view * self.images
        parts = tf.data.Dataset.range(start // PART, (start + self.images - 1) // PART + 1)
        answers = parts.flat_map(lambda part: tf.data.Dataset.from_tensor_slices(self._load(part, names)))
        return answers.skip(start % PART).take(self.images)

    def _load(self, part: tf.Tensor, names: Sequence[str]) -> dict[str, tf.Tensor]:
        def load(number: np.int64) -> list[np.ndarray]:
            folder = part_path(self.directory, number)
            return [np.load(folder / f"{name}.npy") for name in names]

        arrays = tf.numpy_function(load, [part], [self.dtypes[name] for name in names])
        return {
            name: tf.ensure_shape(array, (None, *self.shapes[name])) for name, array in zip(names, arrays, strict=True)
        }


def _open(path: Path) -> np.memmap:
    """The floats at `path`; only the header is read, and nothing is unpickled."""
    try:
        array = np.lib.format.open_memmap(os.fspath(path), mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({reason(error)}): run `dvc repro`, which makes it") from None
    if array.dtype.kind != "f":
        raise InputError(f"{path} has values of type {array.dtype}, should have floats: run `dvc repro`")
    return array

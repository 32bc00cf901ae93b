"""Classify images with an exported student: `python -m distillation.predict photo.jpg folder/ 'scans/*.png'`.

Each image gives one line, in the order asked for: path, label and probability, separated by tabs. A tab or line break
in a path is written as in Python. An image that cannot be classified gives one line on standard error; the others are
classified, and the exit status is 1. TensorFlow is not imported, so it starts at once.
"""

import argparse
import glob
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from distillation.errors import InputError, reason
from distillation.files import read_json
from distillation.inference.litert import Network
from distillation.parallel import map_in_order
from distillation.sources.images import read_rgb, to_square

COMMITTED = Path(__file__).parents[1] / "results/cats_vs_dogs/export"
MODEL, CLASSES, PREPROCESSING = "student_float32.tflite", "classes.txt", "preprocessing.json"
# Files in a folder that are read as images; a file that is named is read whatever its suffix. Pillow cannot read HEIC:
# such a file gets an error, since skipping it would go unnoticed.
SUFFIXES = {".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo"}
SUFFIXES |= {".pbm", ".pgm", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class ExportedStudent:
    """An exported student: `network` takes the `size` x `size` view of an image, and answers with probabilities.

    `oblong` says how an image becomes a square (see `to_square`).
    """

    network: Network
    classes: list[str]
    square: int
    crop: int
    size: int
    oblong: str

    def view(self, image: Image.Image) -> np.ndarray:
        """The plain view of an RGB image of any shape, as `prepare` and `views.plain` make it.

        It is (size, size, 3) float32, 0..255. The image is scaled in two steps, as there: scaled straight to `size`, it
        would be sharper, and one answer in a hundred would change.
        """
        edge = (self.square - self.crop) // 2
        middle = (edge, edge, edge + self.crop, edge + self.crop)
        centre = to_square(image, self.square, self.oblong).crop(middle)
        # Like `plain` and unlike `resize`, `transform` does not antialias. Of float bands it keeps the fractions.
        area = (0, 0, self.crop, self.crop)
        scaled = (self.size, self.size), Image.Transform.EXTENT, area, Image.Resampling.BILINEAR
        return np.stack([band.convert("F").transform(*scaled) for band in centre.split()], axis=-1)


def load_student(path: Path) -> ExportedStudent:
    """Open a LiteRT file of `models/export`, or of a folder its float32 file; `InputError` where it is incomplete."""
    model = path / MODEL if path.is_dir() else path
    for needed in (model, model.with_name(CLASSES), model.with_name(PREPROCESSING)):
        if not needed.is_file():
            raise InputError(f"there is no {needed}: name an exported student, such as models/export, with --model")
    preprocessing = read_json(model.with_name(PREPROCESSING))
    try:
        classes = model.with_name(CLASSES).read_text(encoding="utf-8").removesuffix("\n").split("\n")
        network = Network(model.read_bytes())
        size, *_ = network.input_shape
        shapes = [*network.output_shapes.values()]
        if (network.input_shape, shapes) != ([size, size, 3], [[len(classes)]]):
            raise ValueError(f"{network.input_shape} in, {shapes} out, {len(classes)} classes beside it")
        square, crop = int(preprocessing["square"]), int(preprocessing["crop"])
        oblong = preprocessing.get("oblong", "squeeze")  # as earlier versions did, which did not name it
        if oblong not in ("crop", "squeeze"):
            raise ValueError(f"oblong images are to {oblong}")
        return ExportedStudent(network, classes, square, crop, size, oblong)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise InputError(f"{model}, with the files beside it, is not an exported student ({reason(error)})") from None


def find(names: Iterable[str]) -> Iterator[tuple[str, InputError | None]]:
    """Yield the path of every image that `names` (files, folders, glob patterns) stand for, with an error or None."""
    for name in names:
        try:
            # pathlib's glob takes no absolute pattern.
            found = [name] if Path(name).exists() else sorted(glob.glob(name, recursive=True))  # noqa: PTH207
            for path in found:
                if Path(path).is_dir():
                    yield from _in_folder(path)
                else:
                    yield path, None
            if not found:
                yield name, InputError("no such file or folder")
        except (OSError, ValueError) as error:  # a name that no file can have
            yield name, InputError(_why(error))


def classify(
    student: ExportedStudent, paths: Iterable[tuple[str, InputError | None]]
) -> Iterator[tuple[str, np.ndarray | InputError]]:
    """Yield each path that `find` gives, in order, with its class probabilities (classes,) or its error.

    There is a thread for each core; memory stays bounded however many paths there are.
    """

    def answer(found: tuple[str, InputError | None]) -> tuple[str, np.ndarray | InputError]:
        path, problem = found
        if problem:
            return path, problem
        try:
            with Path(path).open("rb") as file:
                view = student.view(read_rgb(file, least=2 * student.square))
        except InputError as error:
            return path, error
        except Exception as error:  # a malicious file can make Pillow raise anything
            return path, InputError(_why(error))
        (probabilities,) = student.network(view[None]).values()
        return path, probabilities[0]

    return map_in_order(answer, paths)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGPIPE):  # Ctrl-C and `| head` end it, as any other tool
        signal.signal(number, signal.SIG_DFL)
    # LiteRT and libtiff write to standard error, and no setting silences them; Pillow warns.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    warnings.filterwarnings("ignore", module="PIL")
    sys.stdout.reconfigure(errors="surrogateescape")  # a path leaves as it came, in whatever encoding
    options = _options()
    try:
        student = load_student(options.model)
    except InputError as error:
        sys.exit(f"error: {error}")
    classified = failed = 0
    for path, answer in classify(student, find(_names(options.paths))):
        if isinstance(answer, InputError):
            print(f"error: {_printable(path)}: {_printable(str(answer))}", file=sys.stderr)
            failed += 1
        else:
            print(_line(path, dict(zip(student.classes, answer.tolist(), strict=True)), options.json))
            classified += 1
    if not classified + failed:
        sys.exit("error: no path on standard input")
    sys.exit(failed > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("distillation-predict", description="Classify images with an exported student.")
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="an image, a folder of them, a glob pattern, or - for paths on standard input, one a line",
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=COMMITTED,
        help="a LiteRT file of the export stage, or its folder (default: the student of results/cats_vs_dogs)",
    )
    parser.add_argument("--json", action="store_true", help="a JSON object a line, with the probability of every class")
    options = parser.parse_args()
    if not options.paths:
        if sys.stdin is None or sys.stdin.isatty():
            parser.error("name an image")
        options.paths = ["-"]
    return options


def _names(arguments: list[str]) -> Iterator[str]:
    for argument in arguments:
        if argument == "-":
            sys.stdin.reconfigure(errors="surrogateescape")
            yield from filter(None, (line.rstrip("\r\n") for line in sys.stdin))
        else:
            yield argument


def _in_folder(folder: str) -> Iterator[tuple[str, InputError | None]]:
    problems, images = [], 0
    for parent, folders, files in os.walk(folder, onerror=problems.append, followlinks=True):
        folders[:] = sorted(name for name in folders if name[0] != "." and not _leads_back(Path(parent, name)))
        for name in sorted(files):
            if name[0] != "." and Path(name).suffix.lower() in SUFFIXES:
                yield str(Path(parent) / name), None
                images += 1
    for problem in problems:
        yield problem.filename, InputError(_why(problem))
    if not images and not problems:
        yield folder, InputError("a folder without images")


def _leads_back(folder: Path) -> bool:
    """Whether `folder` is a link to one that holds it."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _line(path: str, probabilities: dict[str, float], as_json: bool) -> str:
    label = max(probabilities, key=probabilities.get)
    if not as_json:
        return f"{_printable(path)}\t{label}\t{probabilities[label]:.4f}"
    rounded = {name: round(value, 6) for name, value in probabilities.items()}
    return json.dumps({"path": path, "label": label, "probability": rounded[label], "probabilities": rounded})


def _printable(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]", lambda character: repr(character[0])[1:-1], text)


def _why(error: BaseException) -> str:
    return getattr(error, "strerror", None) or reason(error)


if __name__ == "__main__":
    main()

"""Functions that several test files share."""

import io
import os
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel

from distillation.records import Example, Manifest, class_counts, hide_labels, image_id, write_records

Section = TypeVar("Section", bound=BaseModel)

# Tests download nothing: those on photographs run where TFDS and Keras have what they need already.
_TFDS = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
_KERAS = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
needs_photographs = pytest.mark.skipif(
    not (_TFDS / "cats_vs_dogs").is_dir(), reason=f"needs cats_vs_dogs, as TFDS prepares it, in {_TFDS} (TFDS_DATA_DIR)"
)
needs_imagenet = pytest.mark.skipif(
    not any(_KERAS.glob("models/mobilenet_v2_*_0.35_*_no_top.h5")),
    reason=f"needs the ImageNet weights of MobileNetV2 0.35 in {_KERAS}/models (KERAS_HOME)",
)


class Payload:
    """What a pickle would run."""

    def __reduce__(self) -> tuple:
        return pytest.fail, ("unpickled",)


def changed(section: Section, **values: object) -> Section:
    """`section` of the parameters with other values, validated."""
    return type(section).model_validate(section.model_dump() | values)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """`image` as the content of a file of format `kind` (a name that Pillow knows)."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def random_picture(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) uint8: coloured patches of 8 pixels, which a JPEG keeps well."""
    patches = rng.integers(0, 256, (-(-size // 8), -(-size // 8), 3), np.uint8)
    return patches.repeat(8, axis=0).repeat(8, axis=1)[:size, :size]


def smooth_picture(seed: int, width: int = 120, height: int = 120) -> Image.Image:
    """A picture with large shapes, as photographs have: coarse noise, enlarged."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def random_examples(count: int, classes: int, size: int = 32, seed: int = 0) -> list[Example]:
    """`count` different pictures, the classes taking turns."""
    rng = np.random.default_rng(seed)
    examples = []
    for number in range(count):
        jpeg = encoded(Image.fromarray(random_picture(rng, size)), "JPEG", quality=95, subsampling=0)
        examples.append(Example(image_id(jpeg), number % classes, f"Bärenbild {number}", jpeg))
    return examples


def bare_examples(count: int, classes: int, seed: int = 0) -> list[Example]:
    """Like `random_examples`, with short bytes for pictures: enough to be split."""
    contents = [f"{seed} {number}".encode() for number in range(count)]
    return [
        Example(image_id(content), number % classes, f"picture {number}", content)
        for number, content in enumerate(contents)
    ]


def write(
    directory: Path,
    splits: dict[str, list[Example]],
    classes: list[str],
    image_size: int = 32,
    labeled_fraction: float = 1,
) -> None:
    """Write records, hiding labels of the training split, with a manifest that says what they hold."""
    counts = {name: class_counts(examples, classes) for name, examples in splits.items()}
    train = hide_labels(splits["train"], labeled_fraction, seed=0)
    near = {"validation": 0, "test": 0}
    source = {"name": "test", "version": "1"}
    manifest = Manifest(classes, counts, class_counts(train, classes), near, image_size, source, 0, 0)
    write_records(directory, splits | {"train": train}, manifest)

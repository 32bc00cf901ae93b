"""Functions that several test files share."""

import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel

from distillation.data.records import Manifest, write_records
from distillation.data.splits import SPLITS, Example, hide_labels, image_id, random_ranks, stratified_split
from distillation.files import write_json
from distillation.report.statistics import MODELS

Section = TypeVar("Section", bound=BaseModel)

# Tests download nothing: those on photographs run only where TFDS and Keras have the files already.
_TFDS = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
_KERAS = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()


def _needs_data_set(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not (_TFDS / name).is_dir(), reason=f"needs {name}, as TFDS prepares it, in {_TFDS} (TFDS_DATA_DIR)"
    )


needs_photographs, needs_imagenette = _needs_data_set("cats_vs_dogs"), _needs_data_set("imagenette/160px-v2")


def _needs_imagenet(width: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not any(_KERAS.glob(f"models/mobilenet_v2_*_{width}_224_no_top.h5")),
        reason=f"needs the ImageNet weights of MobileNetV2 {width} in {_KERAS}/models (KERAS_HOME)",
    )


needs_imagenet, needs_imagenet_1 = _needs_imagenet("0.35"), _needs_imagenet("1.0")


class Payload:
    """Code that would run if a pickle were loaded."""

    def __reduce__(self) -> tuple:
        return pytest.fail, ("unpickled",)


def changed(section: Section, **values: object) -> Section:
    """A copy of a section of the parameters with other values, validated."""
    return type(section).model_validate(section.model_dump() | values)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """`image` as the content of a file of format `kind` (a name that Pillow knows)."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def random_image(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) uint8: coloured patches of 8 pixels, which a JPEG keeps well."""
    patches = rng.integers(0, 256, (-(-size // 8), -(-size // 8), 3), np.uint8)
    return patches.repeat(8, axis=0).repeat(8, axis=1)[:size, :size]


def smooth_image(seed: int, width: int = 120, height: int = 120) -> Image.Image:
    """An image with large shapes, as photographs have: coarse noise, enlarged."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def random_examples(count: int, classes: int, size: int = 32, seed: int = 0) -> list[Example]:
    """`count` different images, the classes taking turns."""
    rng = np.random.default_rng(seed)
    examples = []
    for number in range(count):
        jpeg = encoded(Image.fromarray(random_image(rng, size)), "JPEG", quality=95, subsampling=0)
        examples.append(Example(image_id(jpeg), number % classes, f"Bärenbild {number}", jpeg))
    return examples


def bare_examples(count: int, classes: int, seed: int = 0) -> list[Example]:
    """Like `random_examples`, with short bytes for images: enough to be split."""
    contents = [f"{seed} {number}".encode() for number in range(count)]
    return [
        Example(image_id(content), number % classes, f"image {number}", content)
        for number, content in enumerate(contents)
    ]


def columns(examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """The arrays that the functions of `distillation.data.splits` take."""
    return {
        "ids": np.array([int(example.id, 16) for example in examples], np.uint64),
        "labels": np.array([example.label for example in examples], np.int32),
        "splits": np.array([example.split for example in examples], np.int8),
    }


def split_examples(
    examples: Sequence[Example],
    classes: Sequence[str],
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
    **options: object,
) -> dict[str, list[Example]]:
    """The examples of each split, in id order."""
    arrays = columns(examples)
    ranks = random_ranks(arrays["ids"], seed)
    fractions = validation_fraction, test_fraction
    found = stratified_split(ranks, arrays["labels"], arrays["splits"], classes, *fractions, **options)
    ordered = sorted(zip(found, examples, strict=True), key=lambda pair: pair[1].id)
    return {name: [one for part, one in ordered if part == number] for number, name in enumerate(SPLITS)}


def labels_hidden(examples: Sequence[Example], labeled_fraction: float, seed: int = 0) -> list[Example]:
    """The examples; in each class, that share keeps its label."""
    arrays = columns(examples)
    labels = hide_labels(random_ranks(arrays["ids"], seed), arrays["labels"], labeled_fraction).tolist()
    return [replace(example, label=label) for example, label in zip(examples, labels, strict=True)]


def counted(examples: Sequence[Example], classes: Sequence[str]) -> dict[str, int]:
    """The number of examples of each class."""
    return {name: sum(example.label == label for example in examples) for label, name in enumerate(classes)}


def write(
    directory: Path,
    splits: dict[str, list[Example]],
    classes: list[str],
    image_size: int = 32,
    labeled_fraction: float = 1,
) -> None:
    """Write records, hiding labels of the training split, with a manifest of their content."""
    hidden = splits | {"train": labels_hidden(splits["train"], labeled_fraction)}
    manifest = Manifest(
        classes,
        counts={name: counted(examples, classes) for name, examples in splits.items()},
        labeled=counted(hidden["train"], classes),
        unlabeled=0,
        near_duplicates={"validation": 0, "test": 0},
        image_size=image_size,
        oblong="crop",
        source={"name": "test", "version": "1"},
        duplicates_dropped=0,
        conflicting_duplicates_dropped=0,
        official_splits={},
        overlapping_dropped={"unlabeled": 0, "train": 0, "validation": 0},
    )
    write_records(directory, ((name, one) for name, examples in hidden.items() for one in examples), manifest)


def metrics_of_a_run() -> dict:
    """Valid content of `metrics/evaluate.json`."""
    metrics = {
        "compression": {"parameters": 10.5, "macs": 4.25},
        "distilled_minus_scratch": {"accuracy": 0.05, "ci_low": 0.01, "ci_high": 0.09, "p_value": 0.013},
        "teacher_minus_scratch": {"accuracy": 0.16, "ci_low": 0.11, "ci_high": 0.21, "p_value": 0.00001},
    }
    for name, accuracy, parameters in zip(MODELS, (0.95, 0.8, 0.85), (410_208, 39_067, 39_067), strict=True):
        metrics[name] = {
            "accuracy": accuracy,
            "accuracy_ci_low": accuracy - 0.04,
            "accuracy_ci_high": accuracy + 0.03,
            "balanced_accuracy": accuracy - 0.01,
            "nll": 2 - 2 * accuracy,
            "ece": 1 - accuracy,
            "roc_auc": accuracy + 0.04,
            "parameters": parameters,
            "macs": 100 * parameters,
        }
    for name, agreement in (("student_scratch", 0.82), ("student_distilled", 0.88)):
        metrics[name]["agreement_with_teacher"] = agreement
    return metrics


def export_of_a_run() -> dict:
    """Valid content of `metrics/export.json`."""
    return {
        "float16": {"accuracy": 0.85, "bytes": 90_000, "max_abs_probability_error": 0.0004},
        "float32": {"accuracy": 0.85, "bytes": 165_500, "max_abs_probability_error": 0.0000012},
        "int8": {"accuracy": 0.84, "bytes": 61_000, "max_abs_probability_error": 0.061},
    }


def history_of_a_run(terms: dict[str, list[float]]) -> list[dict]:
    """Valid content of `plots/history/MODEL.json`, with a row for each given value of the objective's terms."""
    return [
        {
            "images": 320 * (report + 1),
            "train_accuracy": 0.5 + 0.02 * report,
            "train_loss": 1 - 0.03 * report,
            "validation_accuracy": 0.45 + 0.025 * report,
            "validation_loss": 1.1 - 0.02 * report,
            **{f"objective_{name}": value for name, value in zip(terms, values, strict=True)},
        }
        for report, values in enumerate(zip(*terms.values(), strict=True))
    ]


def histories_of_a_run() -> dict[str, list[dict]]:
    """Those of all models, by name: the distilled student's objective has all its terms."""
    alone = {"hard": [0.9, 0.7, 0.6, 0.5], "soft": [0.0] * 4, "features": [0.0] * 4}
    all_terms = {"hard": [0.1, 0.08, 0.07, 0.06], "soft": [1.2, 0.8, 0.6, 0.5], "features": [0.4, 0.2, 0.1, 0.0]}
    return {name: history_of_a_run(all_terms if name == "student_distilled" else alone) for name in MODELS}


def reliability_of_a_run() -> dict[str, list[dict]]:
    """Valid content of `plots/reliability/MODEL.json`, by model."""
    rows = [{"confidence": 0.55, "accuracy": 0.5, "share": 0.25}, {"confidence": 0.95, "accuracy": 0.9, "share": 0.75}]
    return dict.fromkeys(MODELS, rows)


def write_numbers_of_a_run() -> None:
    """Write these to the current directory, where the report reads them."""
    write_json("metrics/evaluate.json", metrics_of_a_run())
    write_json("metrics/export.json", export_of_a_run())
    for plot, rows in (("history", histories_of_a_run()), ("reliability", reliability_of_a_run())):
        for name in MODELS:
            write_json(f"plots/{plot}/{name}.json", rows[name])

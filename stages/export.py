"""Export the distilled student to LiteRT: float32, float16 and full-integer int8 (`models/export`)."""

import string
import textwrap
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from distillation.console import run
from distillation.data.records import Records
from distillation.data.views import CENTRE
from distillation.files import replacing, write_json
from distillation.inference.compact import compact
from distillation.inference.forward import forward_pass, in_int8, plain_images, predict, to_litert
from distillation.networks.network import load_network, macs
from distillation.params import Params

EXPORT = Path("models/export")
REPRESENTATIVE_BATCHES = 16  # of 32 training images, which the ranges of int8 are found from

CARD = Path(__file__).parents[1] / "distillation/report/model_card.md"


def main(params: Params) -> str:
    """Write one LiteRT file per variant with a description of its input and output, and score each file.

    A file takes one RGB image 0..255 of the student's size and returns class probabilities. `classes.txt` names the
    classes. `preprocessing.json` says how an image is prepared: it becomes a square of `square` pixels a side in the
    way that `oblong` names, and its middle `crop` pixels are scaled to the student's size. `README.md` is a model card.
    """
    test = Records("test")
    student = load_network("models/student_distilled")
    square = test.manifest.image_size
    crop, *_ = tf.image.central_crop(tf.zeros((square, square, 3)), CENTRE).shape
    with replacing(EXPORT) as directory:
        metrics = write_files(student, directory)
        (directory / "classes.txt").write_text("\n".join(test.manifest.classes) + "\n", encoding="utf-8")
        write_json(directory / "preprocessing.json", {"square": square, "crop": crop, "oblong": test.manifest.oblong})
        (directory / "README.md").write_text(_card(student, test, crop, metrics), encoding="utf-8")
        write_json("metrics/export.json", metrics)
    accuracies = ", ".join(f"{variant} {row['accuracy']:.3f}" for variant, row in metrics.items())
    return f"export: test accuracy {accuracies} -> {EXPORT}"


def write_files(network: keras.Model, directory: Path) -> dict[str, dict[str, float]]:
    """Write `network` to a new `directory` as a LiteRT file per variant, `student_VARIANT.tflite`.

    Returns:
        By variant: `accuracy` on test, `validation_accuracy`, `bytes`, and `max_abs_probability_error`, the largest
        difference from the answers of Keras on test.
    """
    train, validation, test = Records("train"), Records("validation"), Records("test")
    model = keras.Model(network.input, {"probabilities": layers.Softmax()(network.output["logits"])}, name="student")
    size = network.input_shape[1]
    images, held_out = plain_images(test, size), plain_images(validation, size)
    reference = model.predict(images, verbose=0)["probabilities"]
    directory.mkdir()
    metrics = {}
    for variant, configure in variants(plain_images(train, size)).items():
        content = compact(to_litert(model, configure))
        (directory / f"student_{variant}.tflite").write_bytes(content)
        forward = forward_pass(content)
        probabilities = predict(forward, images, f"export: {variant}")["probabilities"]
        validated = predict(forward, held_out, f"export: {variant}, validation")["probabilities"]
        metrics[variant] = {
            "accuracy": _accuracy(probabilities, test),
            "validation_accuracy": _accuracy(validated, validation),  # to choose among students by
            "bytes": len(content),
            "max_abs_probability_error": float(np.abs(probabilities - reference).max()),
        }
    return metrics


def _accuracy(probabilities: np.ndarray, records: Records) -> float:
    return float((probabilities.argmax(axis=1) == records.labels).mean())


def _card(model: keras.Model, test: Records, crop: int, metrics: dict[str, dict[str, float]]) -> str:
    """The model card: what the files beside it are, their input and output, and what they are good for."""
    manifest, square = test.manifest, test.manifest.image_size
    edge, labeled = (square - crop) // 2, sum(manifest.labeled.values())
    rows = [
        f"| `student_{variant}.tflite` | {100 * row['accuracy']:.1f} % | {row['bytes']:,} "
        f"| {row['max_abs_probability_error']:.6f} |\n"
        for variant, row in metrics.items()
    ]
    return string.Template(CARD.read_text(encoding="utf-8")).substitute(
        parameters=f"{model.count_params():,}",
        macs=f"{macs(model) / 1e6:,.1f}",
        count=len(manifest.classes),
        classes=textwrap.shorten(", ".join(manifest.classes), 100, placeholder=" ..."),
        scores="".join(rows),
        data=manifest.data,
        train=f"{labeled:,}" if labeled == manifest.size("train") else f"{labeled:,} labeled",
        test=f"{len(test):,}",
        size=model.input_shape[1],
        square=square,
        oblong={"crop": "cropped to their middle square and scaled", "squeeze": "squeezed"}[manifest.oblong],
        fitted={"crop": "ImageOps.fit(image, size", "squeeze": "image.resize(size"}[manifest.oblong],
        crop=crop,
        edge=edge,
        end=edge + crop,
    )


def variants(training_images: tf.data.Dataset) -> dict[str, Callable[[tf.lite.TFLiteConverter], None]]:
    """The options of the converter for each variant."""

    def float16(converter: tf.lite.TFLiteConverter) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]

    # The card promises uint8, 0..255, at both ends of the int8 file.
    int8 = in_int8(training_images.take(REPRESENTATIVE_BATCHES), tf.uint8)
    return {"float32": lambda converter: None, "float16": float16, "int8": int8}


if __name__ == "__main__":
    run(main)

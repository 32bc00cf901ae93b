"""Export the distilled student to LiteRT: float32, float16 and full-integer int8 (`models/export`)."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from distillation.console import run
from distillation.files import replacing, write_json
from distillation.inference import forward_pass, plain_images, predict, to_litert
from distillation.models import load_weights
from distillation.params import Params
from distillation.records import Records
from distillation.student import build_student

EXPORT = Path("models/export")
REPRESENTATIVE_BATCHES = 16  # of 32 training images, to find the ranges of int8


def main(params: Params) -> str:
    """Write one LiteRT file per variant with the class names, and score each on the test split.

    A file takes one RGB picture 0..255 of the student's size (preprocessing is inside) and returns
    class probabilities.
    """
    train, test = (Records("data/records", split) for split in ("train", "test"))
    student = load_weights(
        build_student(params.student, len(test.manifest.classes)), "models/student_distilled.weights.h5"
    )
    model = keras.Model(student.input, layers.Softmax()(student.output), name="student")
    images = plain_images(test, params.student.image_size)
    reference = model.predict(images, verbose=0)
    with replacing(EXPORT) as directory:
        directory.mkdir()
        (directory / "classes.txt").write_text("\n".join(test.manifest.classes) + "\n")
        metrics = {}
        for variant, configure in _variants(plain_images(train, params.student.image_size)).items():
            content = to_litert(model, 1, configure)
            (directory / f"student_{variant}.tflite").write_bytes(content)
            probabilities = predict(forward_pass(content), images, len(test), f"export: {variant}")
            metrics[variant] = {
                "accuracy": float((probabilities.argmax(axis=1) == test.labels).mean()),
                "bytes": len(content),
                "max_abs_probability_error": float(np.abs(probabilities - reference).max()),
            }
        write_json("metrics/export.json", metrics)
    accuracies = ", ".join(f"{variant} {row['accuracy']:.4f}" for variant, row in metrics.items())
    return f"export: test accuracy {accuracies} -> {EXPORT}"


def _variants(training_images: tf.data.Dataset) -> dict[str, Callable[[tf.lite.TFLiteConverter], None]]:
    """What each variant asks of its converter."""

    def representative():
        for batch in training_images.take(REPRESENTATIVE_BATCHES):
            for image in batch:
                yield [image[None]]

    def float16(converter: tf.lite.TFLiteConverter) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]

    def int8(converter: tf.lite.TFLiteConverter) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.uint8

    return {"float32": lambda converter: None, "float16": float16, "int8": int8}


if __name__ == "__main__":
    run(main)

"""Export the distilled student to LiteRT: float32, float16 and full-integer int8 (`models/export`)."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from distillation.console import run
from distillation.files import replacing, write_json
from distillation.inference import forward_pass, plain_images, predict, to_litert
from distillation.models import load_weights, macs
from distillation.params import Params
from distillation.records import Records
from distillation.student import build_student
from distillation.views import CENTRE

EXPORT = Path("models/export")
REPRESENTATIVE_BATCHES = 16  # of 32 training images, to find the ranges of int8

CARD = """---
license: apache-2.0
pipeline_tag: image-classification
library_name: litert
---
# Distilled image classifier

A compact CNN for LiteRT ({parameters:,} parameters, {macs:,.1f} million multiply-accumulates a picture) that tells
{count} classes apart: {classes}. A MobileNetV2 taught it, by knowledge distillation.

| file | test accuracy | bytes | largest error of a probability against Keras |
| --- | ---: | ---: | ---: |
{scores}
Data: `{data}`, {train:,} pictures to train on and {test:,} to test, on which every file was scored.

## Input and output

One picture, RGB 0..255, {size} x {size}: `float32[1, {size}, {size}, 3]`; scaling is inside. The scores are those of
upright pictures, squeezed to {square} x {square}, whose middle {crop} x {crop} is brought to that size by bilinear
interpolation without antialiasing: feed it the same (`preprocessing.json`; code below). The output is
`float32[1, {count}]`, the probability of each line of `classes.txt`. The int8 file takes `uint8`, 0..255, and gives
`uint8`, probabilities times 256.

## Use

`python -m distillation.predict --model FOLDER photo.jpg`, FOLDER being this one; or without the project:

```python
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

picture = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB").resize(({square}, {square}), Image.BILINEAR)
how = ({size}, {size}), Image.EXTENT, (0, 0, {crop}, {crop}), Image.BILINEAR  # unlike resize, it does not antialias
bands = picture.crop(({edge}, {edge}, {end}, {end})).split()
view = np.stack([band.convert("F").transform(*how) for band in bands], axis=-1)  # "F": fractions are kept
student = Interpreter("student_float32.tflite").get_signature_runner()
probabilities = student(image=view[None])["output_0"][0]
print(dict(zip(open("classes.txt").read().splitlines(), probabilities.tolist())))
```

## Intended use and limits

For pictures like those it was trained on, where a small network must do and a mistake is cheap. It knows no answer
beside its classes and gives one to any picture, sure or not. The accuracy is that on test pictures from the same
source: expect less elsewhere, and measure before you rely on it. What bias the data have, it has.

## Licence

Apache 2.0. The pictures it was trained on keep the licence of their source.
"""


def main(params: Params) -> str:
    """Write one LiteRT file per variant, what its user must know beside it, and score each on the test split.

    A file takes one RGB picture 0..255 of the student's size (scaling is inside) and returns class
    probabilities. `classes.txt` names them, `preprocessing.json` tells what becomes of a picture before
    (squeezed to `square` pixels a side, of which the middle `crop` are shown), and `README.md` is a model card.
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
        (directory / "classes.txt").write_text("\n".join(test.manifest.classes) + "\n", encoding="utf-8")
        square = test.manifest.image_size
        crop, *_ = tf.image.central_crop(tf.zeros((square, square, 3)), CENTRE).shape
        write_json(directory / "preprocessing.json", {"square": square, "crop": crop})
        metrics = {}
        for variant, configure in variants(plain_images(train, params.student.image_size)).items():
            content = to_litert(model, configure)
            (directory / f"student_{variant}.tflite").write_bytes(content)
            probabilities = predict(forward_pass(content), images, f"export: {variant}")
            metrics[variant] = {
                "accuracy": float((probabilities.argmax(axis=1) == test.labels).mean()),
                "bytes": len(content),
                "max_abs_probability_error": float(np.abs(probabilities - reference).max()),
            }
        (directory / "README.md").write_text(_card(model, train, test, crop, metrics), encoding="utf-8")
        write_json("metrics/export.json", metrics)
    accuracies = ", ".join(f"{variant} {row['accuracy']:.4f}" for variant, row in metrics.items())
    return f"export: test accuracy {accuracies} -> {EXPORT}"


def _card(model: keras.Model, train: Records, test: Records, crop: int, metrics: dict[str, dict[str, float]]) -> str:
    """The model card: what the files beside it are, take, give, and are good for."""
    manifest, square = test.manifest, test.manifest.image_size
    edge = (square - crop) // 2
    rows = [
        f"| `student_{variant}.tflite` | {100 * row['accuracy']:.1f} % | {row['bytes']:,} "
        f"| {row['max_abs_probability_error']:.6f} |\n"
        for variant, row in metrics.items()
    ]
    return CARD.format(
        parameters=model.count_params(),
        macs=macs(model) / 1e6,
        count=len(manifest.classes),
        classes=textwrap.shorten(", ".join(manifest.classes), 100, placeholder=" ..."),
        scores="".join(rows),
        data=f"{manifest.source['name']} {manifest.source['version']}".strip(),  # a folder has no version
        train=len(train),
        test=len(test),
        size=model.input_shape[1],
        square=square,
        crop=crop,
        edge=edge,
        end=edge + crop,
    )


def variants(training_images: tf.data.Dataset) -> dict[str, Callable[[tf.lite.TFLiteConverter], None]]:
    """What each variant asks of its converter."""

    def representative():
        for batch in training_images.take(REPRESENTATIVE_BATCHES):
            for image in batch.numpy():
                image[0, :2] = [[0], [255]]  # the range of the input, whatever the pictures hold: the card promises it
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

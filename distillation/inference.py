"""Forward passes of trained networks over many pictures."""

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import tensorflow as tf

from distillation.console import progress
from distillation.litert import Network
from distillation.params import Views
from distillation.quiet import without_lines
from distillation.records import Records
from distillation.views import augmented, plain

BATCH = 32


Forward = Callable[[np.ndarray], np.ndarray]


def forward_pass(model: keras.Model | bytes) -> Forward:
    """The quickest way here to run `model` on a batch of pictures: float32 (batch, ...) in and out.

    On a CPU a Keras model runs in LiteRT with XNNPACK, each core on its share of the batch, several times
    faster than in TensorFlow and equal to about 1e-5; where TensorFlow sees a GPU (CUDA or Metal), Keras
    runs it there. Bytes are the content of a LiteRT file.
    """
    if not isinstance(model, bytes):
        if tf.config.list_physical_devices("GPU"):
            return model.predict_on_batch
        model = _frozen(model)
    network, cores = Network(model), os.cpu_count() or 1
    threads = ThreadPoolExecutor(cores)

    def forward(images: np.ndarray) -> np.ndarray:
        return np.concatenate([*threads.map(network, np.array_split(images, min(cores, len(images))))])

    return forward


def predict(forward: Forward, images: tf.data.Dataset, what: str) -> np.ndarray:
    """Outputs for all pictures, float32 (n, ...), in their order; see `predictions`."""
    return np.concatenate([*predictions(forward, images, what)])


def predictions(forward: Forward, images: tf.data.Dataset, what: str) -> Iterator[np.ndarray]:
    """Outputs batch by batch, float32 (batch, ...).

    Args:
        forward: see `forward_pass`.
        images: batches of pictures, float32 as the network takes them.
        what: what the progress bar says.
    """
    return map(forward, progress(images.prefetch(4).as_numpy_iterator(), len(images), what))


def plain_images(records: Records, size: int) -> tf.data.Dataset:
    """The plain view of every picture of a split, in id order, in batches for `predictions`."""
    return records.batches(BATCH).map(lambda batch: plain(batch["image"], size), tf.data.AUTOTUNE)


def view_images(records: Records, size: int, views: Views, view: int) -> tf.data.Dataset:
    """One augmented view of every picture of a split, in id order, in batches for `predictions`."""
    return records.batches(BATCH).map(
        lambda batch: augmented(batch["image"], batch["id"], view, size, views), tf.data.AUTOTUNE
    )


def to_litert(
    model: keras.Model, configure: Callable[[tf.lite.TFLiteConverter], None] = lambda converter: None
) -> bytes:
    """`model` as a LiteRT file's content with a signature (`image` in, `output_0` out), for one picture at a time.

    `configure` may set the converter's options, such as quantisation.
    """
    image = keras.Input(batch_shape=(1, *model.input_shape[1:]), name="image")
    with tempfile.TemporaryDirectory() as directory:
        keras.Model(image, model(image)).export(directory, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(directory)
        configure(converter)
        with without_lines("fully_quantize: "):  # how int8 was asked for
            return converter.convert()


def _frozen(model: keras.Model) -> bytes:
    """`model` as a LiteRT file's content, for one picture at a time: in batches XNNPACK takes as long for each.

    It has no signature, and is made seven times faster than by `to_litert`, which goes by way of a SavedModel.
    """
    image = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32)
    function = tf.function(lambda image: model(image, training=False)).get_concrete_function(image)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    converter.experimental_lower_to_saved_model = False
    return converter.convert()

"""Forward passes of trained networks over many images."""

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import tensorflow as tf
from joblib import cpu_count

from distillation.console import note, progress
from distillation.data.records import Records, decode
from distillation.data.views import are_mixed, partners, plain, seen
from distillation.errors import reason
from distillation.inference.answers import Arrays, joined
from distillation.inference.litert import Network
from distillation.params import Views
from distillation.quiet import without_lines

BATCH = 32

Forward = Callable[[np.ndarray], Arrays]


def forward_pass(network: keras.Model | bytes | Forward) -> Forward:
    """A function that runs `network` in the quickest way on this machine: float32 (batch, ...) to each output by name.

    On a CPU, a Keras model is converted to LiteRT, and each core runs it on its share of the batch with XNNPACK. This
    is several times faster than TensorFlow, and the answers agree to about 1e-5. Keras itself runs the model where
    TensorFlow sees a GPU (CUDA or Metal), and where LiteRT cannot convert it. `network` may also be the content of a
    LiteRT file, or a function of a batch: each core then runs it on its share.
    """
    if isinstance(network, bytes):
        one_core = Network(network)
    elif not isinstance(network, keras.Model):
        one_core = network
    elif tf.config.list_physical_devices("GPU"):
        return network.predict_on_batch
    else:
        one_core = in_litert(network)
        if one_core is None:
            return network.predict_on_batch
    cores = cpu_count()  # which this process may use
    threads = ThreadPoolExecutor(cores)

    def forward(images: np.ndarray) -> Arrays:
        return joined([*threads.map(one_core, np.array_split(images, min(cores, len(images))))])

    return forward


def in_litert(network: keras.Model) -> Network | None:
    """`network` in LiteRT; None, and a note, where LiteRT cannot convert it."""
    try:
        return Network(*frozen(network))
    except Exception as error:  # the converter raises half a dozen kinds
        note(f"{network.name} runs in Keras, since LiteRT cannot convert it ({reason(error)[:200]})")
        return None


def predict(forward: Forward, images: tf.data.Dataset, label: str) -> Arrays:
    """Each output for all images, float32 (n, ...), in their order; see `predictions`."""
    return joined([*predictions(forward, images, label)])


def predictions(forward: Forward, images: tf.data.Dataset, label: str) -> Iterator[Arrays]:
    """Each output batch by batch, float32 (batch, ...).

    Args:
        forward: see `forward_pass`.
        images: batches of images, float32 as the network takes them.
        label: of the progress bar.
    """
    return map(forward, progress(images.prefetch(4).as_numpy_iterator(), len(images), label))


def plain_images(records: Records, size: int) -> tf.data.Dataset:
    """The plain view of every image of a split, in id order, in batches for `predictions`."""
    return records.batches(BATCH).map(lambda batch: plain(batch["image"], size), tf.data.AUTOTUNE)


def view_images(records: Records, size: int, views: Views, count: int, first: int = 0) -> tf.data.Dataset:
    """The first `count` augmented views of every image, in (view, id) order, in batches for `predictions`.

    The first `first` of them are skipped.
    """
    return drawn(numbered(records, views, count, first), records.manifest.image_size, size, views)


def numbered(records: Records, views: Views, count: int, first: int = 0) -> tf.data.Dataset:
    """For each view that `view_images` draws: the serialised examples, and the number of the view (scalar int64).

    The examples are a vector: the image's and, where views are mixed, its partner's.
    """
    view, image = divmod(first, len(records))
    examples = records.dataset()

    def of_view(view: tf.Tensor) -> tf.data.Dataset:
        columns = (examples, partners(examples, view, views.seed)) if are_mixed(views, count) else (examples,)
        return tf.data.Dataset.zip(*columns).map(lambda *serialised: (tf.stack(serialised), view))

    rows = tf.data.Dataset.range(view, count).flat_map(of_view)
    return rows.skip(image).apply(tf.data.experimental.assert_cardinality(count * len(records) - first))


def drawn(rows: tf.data.Dataset, image_size: int, size: int, views: Views) -> tf.data.Dataset:
    """The views that `numbered` lists, `size` pixels a side, in batches of `BATCH`; `image_size` is as stored."""

    def parse(serialised: tf.Tensor, view: tf.Tensor) -> tuple[tuple[dict, ...], tf.Tensor]:
        return tuple(decode(one, image_size) for one in tf.unstack(serialised)), view

    def draw(examples: tuple[dict, ...], view: tf.Tensor) -> tf.Tensor:
        return seen(examples, view, size, views)[0]

    return rows.map(parse, tf.data.AUTOTUNE).batch(BATCH).map(draw, tf.data.AUTOTUNE)


def to_litert(
    network: keras.Model, configure: Callable[[tf.lite.TFLiteConverter], None] = lambda converter: None
) -> bytes:
    """`network` as a LiteRT file's content for one image at a time, with a signature that names input and outputs.

    `configure` may set the converter's options, such as quantisation.
    """
    image = keras.Input(batch_shape=(1, *network.input_shape[1:]), name="image")
    with tempfile.TemporaryDirectory() as directory:
        keras.Model(image, network(image, training=False)).export(directory, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(directory)
        configure(converter)
        with without_lines("fully_quantize: "):  # the settings of int8, which `configure` made
            return converter.convert()


def in_int8(images: tf.data.Dataset, ends: tf.DType) -> Callable[[tf.lite.TFLiteConverter], None]:
    """Options for `to_litert` that quantise weights and activations to int8 (Jacob et al., 2018).

    Args:
        images: batches of images, float32 0..255, which the ranges are found from; a few hundred will do.
        ends: type of input and outputs, float32 or uint8.
    """

    def representative() -> Iterator[list[np.ndarray]]:
        for batch in images:
            for image in batch.numpy():
                image[0, :2] = [[0], [255]]  # so that the input's range is 0..255 for any images
                yield [image[None]]

    def configure(converter: tf.lite.TFLiteConverter) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = ends

    return configure


def frozen(network: keras.Model) -> tuple[bytes, dict[str, str]]:
    """The arguments of `litert.Network` for `network`: a LiteRT file's content, and the output names by tensor name.

    The file takes one image at a time, since batches are no faster with XNNPACK. It has no signature, and is therefore
    made five times faster than by `to_litert`, which writes a SavedModel first.
    """
    image = tf.TensorSpec((1, *network.input_shape[1:]), tf.float32)
    function = tf.function(lambda image: network(image, training=False)).get_concrete_function(image)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], network)
    converter.experimental_lower_to_saved_model = False
    names = {tensor.name.partition(":")[0]: name for name, tensor in function.structured_outputs.items()}
    return converter.convert(), names

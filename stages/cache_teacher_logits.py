"""Let the teacher answer every view of every training image once (`data/teacher_*`)."""

import contextlib
import math
from typing import BinaryIO

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.lib import format as npy
from sklearn.decomposition import PCA

from distillation.console import run
from distillation.errors import InputError
from distillation.files import replacing
from distillation.inference import BATCH, forward_pass, predict, predictions, view_images
from distillation.models import load_weights
from distillation.params import Params
from distillation.records import Records
from distillation.teacher import FEATURES, build_teacher

PCA_IMAGES = 32 * BATCH  # whose features the principal components are found from


def main(params: Params) -> str:
    """Write the teacher's logits and feature maps, for the training images in id order.

    Logits: raw, float32 (views, images, classes), so that neither temperature nor alpha ever asks the
    teacher again. Feature maps, a file for each of `FEATURES`: principal components of unit mean square,
    float16 (views, images, height, width, channels).
    """
    records = Records("data/records", "train")
    classes, size, views = len(records.manifest.classes), params.teacher.image_size, params.views.count
    teacher = load_weights(build_teacher(params.teacher, classes), "models/teacher.weights.h5")
    answers = {"data/teacher_logits.npy": (teacher.output, np.float32)}
    for name, part in FEATURES.items():
        network = keras.Model(teacher.input, teacher.get_layer(name).output)
        sample = view_images(records, size, params.views, 0).take(PCA_IMAGES // BATCH)
        components = _principal_components(network, sample, params.distill.feature_channels, part)
        answers[f"data/teacher_features/{name}.npy"] = (components, np.float16)
    packed = layers.Concatenate()([layers.Flatten()(output) for output, _ in answers.values()])
    forward = forward_pass(keras.Model(teacher.input, packed))
    ends = np.cumsum([math.prod(output.shape[1:]) for output, _ in answers.values()])
    with contextlib.ExitStack() as stack:
        # Batch by batch through files: of a memory map, a full disk would make a crash without a word.
        files = [stack.enter_context(stack.enter_context(replacing(path)).open("wb")) for path in answers]
        for file, (output, dtype) in zip(files, answers.values(), strict=True):
            _begin(file, dtype, (views, len(records), *output.shape[1:]))
        for view in range(views):
            what = f"cache_teacher_logits: view {view + 1}/{views}"
            for rows in predictions(forward, view_images(records, size, params.views, view), what):
                parts = np.split(rows, ends[:-1], axis=1)
                for file, part, (_, dtype) in zip(files, parts, answers.values(), strict=True):
                    file.write(part.astype(dtype).tobytes())
    return f"cache_teacher_logits: {views} views of {len(records):,} images -> data/teacher_*"


def _begin(file: BinaryIO, dtype: type, shape: tuple[int, ...]) -> None:
    """Write the header of an `.npy` file, whose values are to follow."""
    header = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, header)


def _principal_components(network: keras.Model, sample: tf.data.Dataset, feature_channels: int, part: int):
    """The first `feature_channels / part` principal components of a network's map, as a 1x1 convolution behind it.

    They are found once from a sample, and scaled together, so that the components keep their proportions.
    """
    maps = predict(forward_pass(network), sample, "cache_teacher_logits: principal components")
    places, channels = maps.reshape(-1, maps.shape[-1]), feature_channels // part
    if channels > min(places.shape):
        raise InputError(
            f"distill.feature_channels = {feature_channels}, should be at most {part * min(places.shape)}: the "
            f"{len(maps)} images have {len(places)} places on a feature map of {places.shape[1]} channels"
        )
    pca = PCA(channels, svd_solver="covariance_eigh").fit(places)
    scale = np.sqrt(pca.explained_variance_.mean())
    projection = layers.Conv2D(channels, 1)
    output = projection(network.output)
    projection.set_weights([pca.components_.T[None, None] / scale, -pca.mean_ @ pca.components_.T / scale])
    return output


if __name__ == "__main__":
    run(main)

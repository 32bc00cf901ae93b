"""Let the teacher answer every view of every training image once (`data/teacher_*.npy`)."""

from typing import BinaryIO

import keras
import numpy as np
from keras import layers
from numpy.lib import format as npy
from sklearn.decomposition import PCA

from distillation.console import run
from distillation.errors import InputError
from distillation.files import replacing
from distillation.inference import BATCH, forward_pass, predict, view_images
from distillation.models import load_weights
from distillation.params import Params
from distillation.records import Records
from distillation.teacher import FEATURES, build_teacher

PCA_IMAGES = 32 * BATCH  # whose features the principal components are found from


def main(params: Params) -> str:
    """Write the teacher's logits and features, for the training images in id order.

    Logits: raw, float32 (views, images, classes), so that neither temperature nor alpha ever asks the
    teacher again. Features: its last feature map in `distill.feature_channels` principal components of
    unit mean square, float16 (views, images, height, width, channels).
    """
    records = Records("data/records", "train")
    classes, size = len(records.manifest.classes), params.teacher.image_size
    teacher = load_weights(build_teacher(params.teacher, classes), "models/teacher.weights.h5")
    features = keras.Model(teacher.input, teacher.get_layer(FEATURES).output)
    channels = params.distill.feature_channels
    reduced = _principal_components(features, view_images(records, size, params.views, 0), channels)
    answers = layers.Concatenate()([teacher.output, layers.Flatten()(reduced)])
    forward = forward_pass(keras.Model(teacher.input, answers))
    views, shape = params.views.count, reduced.shape[1:]
    with (
        replacing("data/teacher_logits.npy") as temporary_logits,
        replacing("data/teacher_features.npy") as temporary_maps,
        temporary_logits.open("wb") as logits,
        temporary_maps.open("wb") as maps,
    ):
        # View by view through a file: of a memory map, a full disk would make a crash without a word.
        _begin(logits, np.float32, (views, len(records), classes))
        _begin(maps, np.float16, (views, len(records), *shape))
        for view in range(views):
            what = f"cache_teacher_logits: view {view + 1}/{views}"
            rows = predict(forward, view_images(records, size, params.views, view), len(records), what)
            logits.write(rows[:, :classes].astype(np.float32).tobytes())
            maps.write(rows[:, classes:].astype(np.float16).tobytes())
    return f"cache_teacher_logits: {views} views of {len(records):,} images -> data/teacher_*.npy"


def _begin(file: BinaryIO, dtype: type, shape: tuple[int, ...]) -> None:
    """Write the header of an `.npy` file, whose values are to follow."""
    header = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, header)


def _principal_components(features: keras.Model, images, channels: int):
    """The features' first principal components, as a 1x1 convolution inside the network.

    They are found once from a sample, and scaled together, so that the components keep their proportions.
    """
    sample = images.take(PCA_IMAGES // BATCH)
    maps = predict(forward_pass(features), sample, PCA_IMAGES, "cache_teacher_logits: principal components")
    places = maps.reshape(-1, maps.shape[-1])
    if channels > len(places):
        raise InputError(
            f"distill.feature_channels = {channels}, should be at most {len(places)}: "
            f"so many places do the feature maps of {len(maps)} images have"
        )
    pca = PCA(channels, svd_solver="covariance_eigh").fit(places)
    scale = np.sqrt(pca.explained_variance_.mean())
    projection = layers.Conv2D(channels, 1)
    output = projection(features.output)
    projection.set_weights([pca.components_.T[None, None] / scale, -pca.mean_ @ pca.components_.T / scale])
    return output


if __name__ == "__main__":
    run(main)

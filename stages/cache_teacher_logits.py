"""Let the teacher answer every view of every training image once (`data/teacher_*.npy`)."""

import keras
import numpy as np
from keras import layers
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
    logits = np.empty((params.views.count, len(records), classes), np.float32)
    maps = np.empty((params.views.count, len(records), *reduced.shape[1:]), np.float16)
    for view in range(params.views.count):
        what = f"cache_teacher_logits: view {view + 1}/{params.views.count}"
        rows = predict(forward, view_images(records, size, params.views, view), len(records), what)
        logits[view] = rows[:, :classes]
        maps[view] = rows[:, classes:].reshape(-1, *reduced.shape[1:])
    for name, array in (("logits", logits), ("features", maps)):
        with replacing(f"data/teacher_{name}.npy") as temporary:
            np.save(temporary, array)
    return f"cache_teacher_logits: {params.views.count} views of {len(records):,} images -> data/teacher_*.npy"


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

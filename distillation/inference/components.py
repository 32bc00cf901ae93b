"""Principal components of the teacher's feature maps: the cache stores these instead of the maps."""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.decomposition import PCA

from distillation.errors import InputError
from distillation.inference.forward import BATCH, forward_pass, predict
from distillation.networks.network import select

# Shares of `distill.feature_channels`. The middle map has four times as many positions as the last map, so the cache
# stores equally many values of both.
SHARES = {"middle_map": 1 / 4, "last_map": 1}
MOST_BYTES = 1_500_000_000  # of the sample's feature maps: 1,024 images of a ResNet50 at 224 px are 1.2 GB


def with_components(teacher: keras.Model, sample: tf.data.Dataset, feature_channels: int, label: str) -> keras.Model:
    """`teacher` with each feature map replaced by its principal components, which a 1x1 convolution computes.

    The components of a map are divided by one number, so that their mean square is 1 and their proportions stay.

    Args:
        teacher: a network with the output `logits`, and with any of `MAPS`.
        sample: batches of images that the components are found from, or of the first of them, if their maps are large.
        feature_channels: number of components of the last map.
        label: of the progress bar.

    Raises:
        InputError: where there are fewer channels, or fewer places in the sample, than components.
    """
    shares = {name: share for name, share in SHARES.items() if name in teacher.output}
    outputs = {"logits": teacher.output["logits"]}
    batch = 4 * BATCH * sum(math.prod(teacher.output[name].shape[1:]) for name in shares)  # bytes
    sample = sample.take(max(1, MOST_BYTES // max(1, batch)))
    samples = predict(forward_pass(select(teacher, *shares)), sample, label) if shares else {}
    for name, share in shares.items():
        places, channels = samples[name].reshape(-1, samples[name].shape[-1]), int(feature_channels * share)
        most = int(min(places.shape) / share)
        if feature_channels > most:
            raise InputError(
                f"distill.feature_channels = {feature_channels}, should be at most {most}: the {len(samples[name])} "
                f"images have {len(places)} places on a feature map of {places.shape[1]} channels"
            )
        pca = PCA(channels, svd_solver="covariance_eigh").fit(places)
        scale = np.sqrt(pca.explained_variance_.mean())
        projection = layers.Conv2D(channels, 1, name=f"{name}_components")
        outputs[name] = projection(teacher.output[name])
        projection.set_weights([pca.components_.T[None, None] / scale, -pca.mean_ @ pca.components_.T / scale])
    return keras.Model(teacher.input, outputs, name=teacher.name)

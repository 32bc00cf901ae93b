"""Principal components of the teacher's feature maps: what is cached of them."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.decomposition import PCA

from distillation.errors import InputError
from distillation.inference.forward import forward_pass, predict
from distillation.networks.network import select

# Of `distill.feature_channels`. A middle map has four times the places of the last, so this makes as many values.
SHARES = {"middle_map": 1 / 4, "last_map": 1}


def with_components(teacher: keras.Model, sample: tf.data.Dataset, feature_channels: int, label: str) -> keras.Model:
    """`teacher` with the principal components of its feature maps in their place, each as a 1x1 convolution.

    They are found once, and scaled together to unit mean square, so that they keep their proportions.

    Args:
        teacher: logits, and any of `MAPS`.
        sample: batches of images to find them from.
        feature_channels: number of components of the last map.
        label: of the progress bar.

    Raises:
        InputError: where there are fewer channels, or fewer places in the sample, than components.
    """
    shares = {name: share for name, share in SHARES.items() if name in teacher.output}
    outputs = {"logits": teacher.output["logits"]}
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
    return keras.Model(teacher.input, outputs)

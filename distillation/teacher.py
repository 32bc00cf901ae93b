"""The teacher: MobileNetV2 under a linear head."""

import warnings
from pathlib import Path

import keras
from keras import layers

from distillation.errors import InputError, reason
from distillation.params import Teacher

HEAD = "head"  # the layer that turns pooled features into logits
# The feature maps for the student to match: Keras's name, and the divisor of `distill.feature_channels`. The second
# map has four times as many places, so a quarter of the channels makes as many values.
FEATURES = {"out_relu": 1, "block_12_add": 4}


def build_teacher(teacher: Teacher, classes: int, weights: str | None = None) -> keras.Model:
    """MobileNetV2 (Sandler et al., 2018), average-pooled, with a linear head.

    Args:
        teacher: width multiplier, input size and dropout.
        classes: number of logits.
        weights: where the backbone starts: "imagenet", the path of a Keras weights file without top,
            or None for random weights. Raises `InputError` where they cannot be had.

    Returns:
        A network from (batch, size, size, 3) float32, 0..255, to logits (batch, classes) float32.
    """
    inputs = keras.Input((teacher.image_size, teacher.image_size, 3))
    scaled = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    backbone = keras.applications.MobileNetV2(
        input_tensor=scaled, alpha=teacher.width, include_top=False, weights=None, pooling="avg"
    )
    if weights is not None:
        backbone.set_weights(_pretrained(teacher.width, weights))
    else:
        _ready_to_train(backbone)
    features = layers.Dropout(teacher.dropout)(backbone.output)
    return keras.Model(inputs, layers.Dense(classes, name=HEAD)(features), name="teacher")


def _ready_to_train(backbone: keras.Model) -> None:
    """From random weights, MobileNetV2 stays at chance for long unless its residual blocks start as their shortcuts.

    So the scale of the last normalisation of each starts at zero (Goyal et al., "Accurate, large minibatch
    SGD", 2017, section 5.1). And Keras sets the momentum of normalisation to 0.999, with which the moving
    statistics need thousands of steps to settle.
    """
    names = {layer.name for layer in backbone.layers}
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9
            if layer.name.endswith("_project_BN") and layer.name.replace("_project_BN", "_add") in names:
                layer.gamma.assign(keras.ops.zeros_like(layer.gamma))


def _pretrained(width: float, weights: str) -> list:
    if weights != "imagenet" and not Path(weights).is_file():
        raise InputError(f"teacher.weights = {weights!r} should be imagenet, null, or the path of a Keras weights file")
    try:
        with warnings.catch_warnings():
            # Without a fixed input size Keras takes the weights trained at 224 px, which serve every size.
            warnings.filterwarnings("ignore", message="`input_shape` is undefined")
            return keras.applications.MobileNetV2(
                input_shape=(None, None, 3), alpha=width, include_top=False, weights=weights, pooling="avg"
            ).get_weights()
    except Exception as error:  # Keras raises a bare Exception where a download fails
        raise InputError(f"teacher.weights = {weights!r} cannot be loaded: {reason(error)}") from None

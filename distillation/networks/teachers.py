"""Teachers: a network of `keras.applications` under a linear head."""

import warnings
from pathlib import Path

import keras
from keras import layers

from distillation.errors import InputError, reason
from distillation.params import Teacher

HEAD = "head"  # the layer that turns pooled features into logits


def build_teacher(teacher: Teacher, classes: int) -> keras.Model:
    """The teacher that `teacher` asks for, with pretrained or random weights (outputs: see `network.py`).

    Args:
        teacher: which network, its input size, its weights, and the dropout before its head.
        classes: number of logits.

    Raises:
        InputError: where the weights cannot be had.
    """
    image = keras.Input((teacher.image_size, teacher.image_size, 3), name="image")
    features, maps = TEACHERS[teacher.network](image, teacher)
    logits = layers.Dense(classes, name=HEAD)(layers.Dropout(teacher.dropout)(features))
    return keras.Model(image, {"logits": logits, **maps}, name="teacher")


def mobilenet_v2(image: keras.KerasTensor, teacher: Teacher) -> tuple[keras.KerasTensor, dict[str, keras.KerasTensor]]:
    """MobileNetV2 (Sandler et al., 2018): its average-pooled features (batch, channels), and its feature maps.

    The middle map is the last sum of residuals at 1/16 of the image's side, the last map is at 1/32.
    """
    backbone = keras.applications.MobileNetV2(
        input_tensor=layers.Rescaling(1 / 127.5, offset=-1)(image),
        alpha=teacher.width,
        include_top=False,
        weights=None,
        pooling="avg",
    )
    if teacher.weights is None:
        _ready_to_train(backbone)
    else:
        backbone.set_weights(_pretrained(teacher.width, teacher.weights))
    maps = {"middle_map": "block_12_add", "last_map": "out_relu"}
    return backbone.output, {name: backbone.get_layer(layer).output for name, layer in maps.items()}


# By `teacher.network`: each from an image and its settings to pooled features and feature maps.
TEACHERS = {"MobileNetV2": mobilenet_v2}


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

"""Teachers: a network of `keras.applications`, or one of `TEACHERS`, under a linear head."""

import difflib
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
from keras import layers, ops
from keras.applications import efficientnet

from distillation.errors import InputError, reason
from distillation.networks.network import feature_maps
from distillation.params import Teacher

HEAD = "head"  # the layer that turns pooled features into logits

# Networks that keras.applications lacks, by `teacher.network`: each from an image (batch, size, size, 3), 0..255, to
# average-pooled features (batch, channels).
TEACHERS: dict[str, Callable[[keras.KerasTensor], keras.KerasTensor]] = {}


def build_teacher(teacher: Teacher, classes: int) -> keras.Model:
    """The teacher that `teacher` asks for, with pretrained or random weights (outputs: see `network.py`).

    Args:
        teacher: which network, its input size, its weights, and the dropout before its head.
        classes: number of logits.

    Raises:
        InputError: where there is no such network, or not of this width or input size, or its weights cannot be had.
    """
    image = keras.Input((teacher.image_size, teacher.image_size, 3), name="image")
    backbone = _own(image, teacher) if teacher.network in TEACHERS else _application(image, teacher)
    if teacher.weights is None:
        _ready_to_train(backbone)
    logits = layers.Dense(classes, name=HEAD)(layers.Dropout(teacher.dropout)(backbone.output))
    return keras.Model(image, {"logits": logits, **feature_maps(backbone)}, name="teacher")


def _own(image: keras.KerasTensor, teacher: Teacher) -> keras.Model:
    if teacher.width != 1:
        raise _no_width(teacher)
    backbone = keras.Model(image, TEACHERS[teacher.network](image))
    if teacher.weights is not None:
        _check_path(teacher)
        try:
            backbone.load_weights(teacher.weights)
        except Exception as error:  # h5py and Keras raise half a dozen kinds
            raise InputError(f"teacher.weights = {teacher.weights!r} cannot be loaded: {reason(error)}") from None
    return backbone


def _application(image: keras.KerasTensor, teacher: Teacher) -> keras.Model:
    """The network of that name in `keras.applications` without its classifier, from 0..255 to pooled features."""
    function = getattr(keras.applications, teacher.network, None)
    if not inspect.isfunction(function):
        raise InputError(_unknown(teacher.network))
    settings = {"include_top": False, "pooling": "avg"}
    by_width = "alpha" in inspect.signature(function).parameters
    if by_width:
        settings["alpha"] = teacher.width
    elif teacher.width != 1:
        raise _no_width(teacher)
    if teacher.weights not in (None, "imagenet"):
        _check_path(teacher)
        # Keras scales their input once more for the name imagenet alone, and a file fits without that.
        if hasattr(efficientnet, teacher.network):
            raise InputError(
                f"teacher.weights = {teacher.weights!r} would be read wrongly by {teacher.network}: it should be "
                "imagenet (Keras looks for the file in ~/.keras/models), or the whole classifier be teacher.file"
            )
    # MobileNets have other weights for some input sizes. Those trained at 224 px serve every size, and Keras loads them
    # where the size is open. Other networks load their own: EfficientNets have one more layer with ImageNet's weights.
    open_size = by_width and teacher.weights == "imagenet"
    try:
        scaled = preprocessed(image, inspect.getmodule(function))
        backbone = function(input_tensor=scaled, weights=None if open_size else teacher.weights, **settings)
        if open_size:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="`input_shape` is undefined")
                pretrained = function(input_shape=(None, None, 3), weights="imagenet", **settings)
            backbone.set_weights(pretrained.get_weights())
    except Exception as error:  # Keras raises a bare Exception where a download fails
        wanted = f"teacher.network = {teacher.network} at teacher.image_size = {teacher.image_size}"
        if teacher.weights is not None:
            wanted += f" with teacher.weights = {teacher.weights!r}"
        raise InputError(f"{wanted} cannot be built: {reason(error)}") from None
    return backbone


def preprocessed(image: keras.KerasTensor, module: ModuleType) -> keras.KerasTensor:
    """`image`, 0..255, as the networks of a module of `keras.applications` expect it.

    The `preprocess_input` of each module scales and shifts every channel, and may reverse their order, or it does
    nothing, since the network does it itself. So the answers to black and to the three pure colours tell all of it.
    """
    black, *colours = module.preprocess_input(np.concatenate([np.zeros((1, 3)), 255 * np.eye(3)])[:, None, None])
    offset = black.ravel()
    matrix = (np.concatenate(colours)[:, 0] - offset) / 255  # row i has what channel i adds to each channel
    reverse = matrix[0, 0] == 0
    scale = (matrix[::-1] if reverse else matrix).diagonal()
    if reverse:
        image = ops.flip(image, axis=-1)
    if np.allclose(scale, 1) and not offset.any():
        return image
    alike = np.ptp(scale) < 1e-9 and np.ptp(offset) == 0
    return layers.Rescaling(*((scale[0], offset[0]) if alike else (scale.tolist(), offset.tolist())))(image)


def _check_path(teacher: Teacher) -> None:
    if not Path(teacher.weights).is_file():
        known = "null" if teacher.network in TEACHERS else "imagenet, null,"
        raise InputError(f"teacher.weights = {teacher.weights!r} should be {known} or the path of a Keras weights file")


def _no_width(teacher: Teacher) -> InputError:
    return InputError(
        f"teacher.width = {teacher.width}, should be 1: {teacher.network} has no multiplier of its channels"
    )


def _unknown(network: str) -> str:
    """The error message for a network that does not exist."""
    names = [*TEACHERS, *(name for name, value in vars(keras.applications).items() if inspect.isfunction(value))]
    by_lower = {name.lower(): name for name in names}
    near = [by_lower[name] for name in difflib.get_close_matches(network.lower(), by_lower, n=4)]
    return (
        f"teacher.network = {network!r}, should be a network of keras.applications by its class name"
        f"{': ' if near else ', such as MobileNetV2'}{', '.join(near)}"
    )


def _ready_to_train(backbone: keras.Model) -> None:
    """Change initial values with which training from random weights would be slow.

    MobileNetV2 stays at chance for long unless its residual blocks start as their shortcuts. So the scale of each
    block's last normalisation starts at zero (Goyal et al., "Accurate, large minibatch SGD", 2017, section 5.1). The
    blocks are found by the names that they have in MobileNets and EfficientNets. Keras sets the momentum of
    normalisation to 0.99 or more, with which the moving statistics need thousands of steps; here it is 0.9.
    """
    names = {layer.name.lower() for layer in backbone.layers}
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9
            block, found, _ = layer.name.lower().rpartition("_project_bn")
            if found and f"{block}_add" in names:
                layer.gamma.assign(ops.zeros_like(layer.gamma))

"""What can be done with any Keras network: load its weights, count its operations."""

from pathlib import Path

import h5py
import keras
from keras import layers

from distillation.errors import InputError, reason


def load_weights(model: keras.Model, path: str | Path) -> keras.Model:
    """Load a `*.weights.h5` file (which, unlike `.keras`, holds no date) into `model`, and return it.

    Raises `InputError` where the file is missing, broken or of another network.
    """
    try:
        model.load_weights(path)
        arrays = []
        with h5py.File(path) as file:
            file.visititems(lambda _, item: arrays.append(item) if isinstance(item, h5py.Dataset) else None)
        if len(arrays) != len(model.weights):  # Keras passes over what the network has no place for
            raise ValueError(f"{len(arrays)} arrays instead of {len(model.weights)}")
    except Exception as error:  # h5py and Keras raise half a dozen kinds
        raise InputError(f"{path} does not hold the weights of this {model.name} ({reason(error)})") from None
    return model


def macs(model: keras.Model) -> int:
    """Multiply-accumulate operations of one picture's forward pass: convolutions and dense layers."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, layers.DepthwiseConv2D | layers.Conv2D):
            _, height, width, _ = layer.output.shape
            total += height * width * layer.kernel.shape.num_elements()
        elif isinstance(layer, layers.Dense):
            total += layer.kernel.shape.num_elements()
    return total

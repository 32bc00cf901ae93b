"""What can be done with any network: find its feature maps, count its operations, save and load it.

A network of this project is a functional Keras model. It takes `image`, (batch, size, size, 3) float32 in
0..255, and has named outputs: `logits`, (batch, classes), and where it has feature maps to match, those of
`MAPS`, (batch, height, width, channels).
"""

from pathlib import Path

import h5py
import keras
from keras import layers

from distillation.errors import InputError, reason
from distillation.files import replacing

MAPS = ("middle_map", "last_map")
CONFIGURATION, WEIGHTS = "network.json", "network.weights.h5"


def select(network: keras.Model, *names: str) -> keras.Model:
    """The part of `network` that computes the outputs `names`."""
    return keras.Model(network.input, {name: network.output[name] for name in names})


def save_network(network: keras.Model, directory: str | Path) -> None:
    """Write configuration and weights of `network` to `directory`: equal bytes for equal networks, whole or not at all.

    (A `.keras` file would hold the date of saving.)
    """
    with replacing(directory) as temporary:
        temporary.mkdir()
        (temporary / CONFIGURATION).write_text(network.to_json(indent=1) + "\n")
        network.save_weights(temporary / WEIGHTS)


def load_network(directory: str | Path) -> keras.Model:
    """The network that `save_network` wrote. Raises `InputError` where files are missing, broken, or do not fit."""
    configuration, weights = Path(directory) / CONFIGURATION, Path(directory) / WEIGHTS
    try:
        network = keras.models.model_from_json(configuration.read_text(encoding="utf-8"))
        if "logits" not in network.output:
            raise ValueError("it has no output named logits")
    except Exception as error:  # Keras raises half a dozen kinds
        raise InputError(f"{configuration} does not hold a network ({reason(error)}): run `dvc repro`") from None
    try:
        network.load_weights(weights)
        arrays = []
        with h5py.File(weights) as file:
            file.visititems(lambda _, item: arrays.append(item) if isinstance(item, h5py.Dataset) else None)
        if len(arrays) != len(network.weights):  # Keras passes over what the network has no place for
            raise ValueError(f"{len(arrays)} arrays instead of {len(network.weights)}")
    except Exception as error:  # h5py and Keras raise half a dozen kinds
        problem = f"{weights} does not hold the weights of the {network.name} beside it"
        raise InputError(f"{problem} ({reason(error)}): run `dvc repro`") from None
    return network


def macs(network: keras.Model) -> int:
    """Multiply-accumulate operations of one image's forward pass: convolutions and dense layers."""
    total = 0
    for layer in network.layers:
        if isinstance(layer, layers.DepthwiseConv2D | layers.Conv2D):
            _, height, width, _ = layer.output.shape
            total += height * width * layer.kernel.shape.num_elements()
        elif isinstance(layer, layers.Dense):
            total += layer.kernel.shape.num_elements()
    return total

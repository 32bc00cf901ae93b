"""What can be done with any network: find its feature maps, count its operations, save and load it.

A network of this project is a functional Keras model. It takes `image`, (batch, size, size, 3) float32 in
0..255, and has named outputs: `logits`, (batch, classes), and where it has feature maps to match, those of
`MAPS`, (batch, height, width, channels).
"""

import math
from pathlib import Path

import h5py
import keras
from keras import layers

from distillation.errors import InputError, reason
from distillation.files import replacing

# A user's keras.json may say otherwise, and so change results behind DVC's back.
keras.config.set_floatx("float32")
keras.config.set_image_data_format("channels_last")

# By name: the side of the image divided by that of the map.
STRIDES = {"middle_map": 16, "last_map": 32}
MAPS = tuple(STRIDES)
TOLERANCE = 0.1  # share by which the side of a map may differ from that
MERGES = ("Add", "Concatenate")  # layers where the branches of a block meet
CONFIGURATION, WEIGHTS = "network.json", "network.weights.h5"


def select(network: keras.Model, *names: str) -> keras.Model:
    """The part of `network` that computes the outputs `names`."""
    return keras.Model(network.input, {name: network.output[name] for name in names})


def taken_apart(network: keras.Model, x: keras.KerasTensor) -> keras.KerasTensor:
    """The output of `network`, which has one input and one output, for `x`; nested networks become single layers."""

    def call(layer: keras.Operation, *inputs, **options):
        apart = isinstance(layer, keras.Model)
        results.append(taken_apart(layer, inputs[0]) if apart else layer(*inputs, **options))
        return results[-1]

    results = [x]
    if isinstance(network, keras.Sequential):
        for layer in network.layers:
            call(layer, results[-1])
    else:
        source = keras.tree.map_structure(lambda _: x, network.input)
        keras.models.clone_model(network, source, clone_function=lambda layer: layer, call_function=call)
    return results[-1]  # all that is computed leads to the one output, which comes last


def feature_maps(network: keras.Model) -> dict[str, keras.KerasTensor]:
    """The feature maps of `MAPS` in a network that takes square images, found by their side; {} where one is missing.

    A map's side is that nearest to the image's through its stride, rounded either way or within `TOLERANCE`. Of the
    layers of that side, the last map is the last one, which pooling reads. The middle map is the last one where
    branches meet (the sum of a residual block), since what follows belongs to a block that halves the side already
    (its expansion, its preactivation); without such layers, the last one.
    """
    maps = {}
    for name, stride in STRIDES.items():
        wanted = network.inputs[0].shape[1] / stride
        outputs = [
            (type(operation).__name__, operation.output)
            for operation in network.operations
            if isinstance(operation.output, keras.KerasTensor)
            and len(shape := operation.output.shape) == 4
            and shape[1] == shape[2] is not None
            and (abs(shape[1] - wanted) < 1 or abs(shape[1] - wanted) <= TOLERANCE * wanted)
        ]
        nearest = min((abs(output.shape[1] - wanted) for _, output in outputs), default=None)
        outputs = [(kind, output) for kind, output in outputs if abs(output.shape[1] - wanted) == nearest]
        merged = [output for kind, output in outputs if kind in MERGES and name != "last_map"]
        if not outputs:
            return {}
        maps[name] = (merged or [output for _, output in outputs])[-1]
    return maps


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
        if len(arrays) != len(network.weights):  # Keras ignores arrays that the network has no place for
            raise ValueError(f"{len(arrays)} arrays instead of {len(network.weights)}")
    except Exception as error:  # h5py and Keras raise half a dozen kinds
        problem = f"{weights} does not hold the weights of the {network.name} beside it"
        raise InputError(f"{problem} ({reason(error)}): run `dvc repro`") from None
    return network


def macs(network: keras.Model) -> int:
    """Multiply-accumulate operations of one image's forward pass: convolutions and dense layers."""
    total = 0
    for layer in network.layers:
        if isinstance(layer, keras.Model):  # a network within the network
            total += macs(layer)
        elif isinstance(layer, layers.DepthwiseConv2D | layers.Conv2D | layers.SeparableConv2D | layers.Dense):
            places = math.prod(layer.output.shape[1:-1])  # a dense layer may stand at every place of a map
            kernels = [weight for weight in layer.weights if "kernel" in weight.name]
            total += places * sum(kernel.shape.num_elements() for kernel in kernels)
    return total

"""One's own trained classifier, a `.keras` or `.tflite` file: its input, its answers, and how it is published."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

from distillation.errors import InputError, reason
from distillation.files import composed
from distillation.inference.forward import Forward, forward_pass
from distillation.inference.published import (
    FLOOR,
    RANGES,
    LiteRTFile,
    Reading,
    check_ends,
    logits,
    row_length,
    save_litert,
    square_side,
)
from distillation.networks.network import feature_maps, save_network, taken_apart


@dataclass(frozen=True)
class OwnFile:
    """An opened file.

    `forward` takes images (n, size, size, 3) float32 in the file's own range, and returns `answers`, (n, outputs).
    `input_range` and `classes` are those that the file itself names, else None. `publish` writes the network, with a
    reading, for `load_trained`.
    """

    size: int
    outputs: int
    forward: Forward
    floor: float
    publish: Callable[[Reading, Path], None]
    input_range: str | None = None
    classes: list[str] | None = None


def open_own(path: str, image_size: int) -> OwnFile:
    """Open the classifier at `path`. Only layers of Keras and operations of LiteRT are run, and no code of the file.

    Args:
        path: of a `.keras` or `.tflite` file.
        image_size: side of the images, where the file does not fix it.

    Raises:
        InputError: where it cannot be opened, or does not take one square RGB image and answer one row of numbers.
    """
    if not Path(path).is_file():
        raise InputError(f"teacher.file = {path!r} is no file")
    try:
        return _open_keras(path, image_size) if path.endswith(".keras") else _open_litert(path)
    except Exception as error:  # Keras and LiteRT raise half a dozen kinds
        raise InputError(f"teacher.file = {path!r} cannot be used: {reason(error)}") from None


def _open_keras(path: str, image_size: int) -> OwnFile:
    with zipfile.ZipFile(path) as archive:
        configuration = json.loads(archive.read("config.json"))
    kinds = {(module or "keras", name) for module, name in _kinds(configuration)}
    if foreign := sorted(name for module, name in kinds if module.split(".")[0] != "keras"):
        raise ValueError(f"it has {', '.join(foreign)}, which Keras lacks: convert it to .tflite with its own code")
    if ("keras.layers", "Lambda") in kinds:
        raise ValueError("it has a Lambda layer, whose code is not run: convert it to .tflite if you trust it")
    network = keras.models.load_model(path, compile=False, safe_mode=True)
    if not (isinstance(network, keras.Sequential) or hasattr(network, "operations")):
        raise ValueError(f"it holds a {type(network).__name__}, should be a functional or a sequential network")
    check_ends(network.inputs, network.outputs)
    (_, *shape), answers = network.inputs[0].shape, network.outputs[0]
    size = square_side([image_size if side is None else side for side in shape[:-1]] + shape[-1:])
    # Taken apart, its layers may have equal names. Then it stays whole, if the sizes of its maps are known.
    connections = [taken_apart, *([] if None in shape else [lambda network, x: network(x)])]

    def connected(input_range: str, ending: Callable[[keras.KerasTensor], dict[str, keras.KerasTensor]]) -> keras.Model:
        """The network between an input, 0..255 scaled to that range, and an ending."""
        black, white = map(np.array, RANGES[input_range])
        # The ending is one layer: the names of its operations would meet those of the file.
        end = keras.Input(answers.shape[1:], dtype=answers.dtype)
        end = keras.Model(end, ending(ops.cast(end, "float32")), name="reading")
        for connect in connections:
            image = x = keras.Input((size, size, 3), name="image")
            if input_range != "0..255":
                x = layers.Rescaling(((white - black) / 255).tolist(), black.tolist(), name="input_range")(image)
            try:
                return keras.Model(image, end(connect(network, x)), name="teacher")
            except ValueError as error:
                problem = error
        raise problem

    def publish(reading: Reading, directory: Path) -> None:
        teacher = connected(reading.input_range, lambda answers: {"logits": logits(answers, reading, ops)})
        # The file's layers may belong to other networks too. Copies belong to this network alone.
        copy = keras.models.model_from_json(teacher.to_json())
        copy.set_weights(teacher.get_weights())
        save_network(keras.Model(copy.input, copy.output | feature_maps(copy), name="teacher"), directory)

    plain = connected("0..255", lambda answers: {"answers": answers})
    outputs = row_length(plain.output["answers"].shape[1:])
    return OwnFile(size, outputs, forward_pass(plain), FLOOR, publish)


def _kinds(configuration: object) -> Iterator[tuple[str | None, str]]:
    """Module and name of every class in the configuration of a `.keras` file, except those of its training."""
    if isinstance(configuration, dict):
        if isinstance(name := configuration.get("class_name"), str):
            yield configuration.get("module"), name
        for key, value in configuration.items():
            if key != "compile_config":
                yield from _kinds(value)
    elif isinstance(configuration, list):
        for value in configuration:
            yield from _kinds(value)


def _open_litert(path: str) -> OwnFile:
    content = Path(path).read_bytes()
    network = LiteRTFile(content)
    return OwnFile(
        network.size,
        network.outputs,
        forward_pass(network),
        network.floor,
        lambda reading, directory: save_litert(content, reading, directory),
        network.input_range,
        _labels(content, network.outputs),
    )


def _labels(content: bytes, count: int) -> list[str] | None:
    """The names of classes in the metadata of a LiteRT file: a text file with a line for each."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return None
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            lines = archive.read(name).decode("utf-8", "replace").split("\n") if name.endswith(".txt") else []
            names = [composed(line.strip()) for line in lines if line.strip()]
            if len(names) == count:
                return names
    return None

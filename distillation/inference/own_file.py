"""A trained classifier from a `.keras` or a `.tflite` file: what it takes, what it answers, and how it is published.

A published `.keras` file becomes a network as any other (`networks/network.py`). A `.tflite` file is published as it
is, beside `SETTINGS`, which say how images become its input and its answers logits.
"""

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from keras import layers, ops

from distillation.errors import InputError, reason
from distillation.files import read_json, replacing, write_json
from distillation.inference.forward import forward_pass
from distillation.inference.litert import Network
from distillation.networks.network import feature_maps, load_network, macs, save_network, select, taken_apart

FILE, SETTINGS = "network.tflite", "settings.json"
_MEAN, _DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # of ImageNet, as in torchvision
# By `teacher.input_range`: what black and white are to the network, in each channel.
RANGES = {
    "0..255": ([0.0] * 3, [255.0] * 3),
    "0..1": ([0.0] * 3, [1.0] * 3),
    "-1..1": ([-1.0] * 3, [1.0] * 3),
    "imagenet": ((-_MEAN / _DEVIATION).tolist(), ((1 - _MEAN) / _DEVIATION).tolist()),
}
FLOOR = 1e-7  # that probabilities have at least, so that they have a logarithm
NEAR = 0.1  # share of its width by which the range of a quantised input may differ from one of `RANGES`

Answer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Reading:
    """How a file is read: the range of its input, whether it answers probabilities, the smallest one that counts, and
    for each class of the data the number of the file's output."""

    input_range: str
    probabilities: bool
    floor: float
    order: list[int]


@dataclass(frozen=True)
class OwnFile:
    """An opened file.

    `answer` takes images (n, size, size, 3) float32 in the file's own range, and returns what it answers, (n, outputs).
    `input_range` and `classes` are what the file itself says of them; None where it says nothing. `publish` writes
    what `load_trained` reads, under a reading.
    """

    size: int
    outputs: int
    answer: Answer
    floor: float
    publish: Callable[[Reading, Path], None]
    input_range: str | None = None
    classes: list[str] | None = None


def open_own(path: str, image_size: int) -> OwnFile:
    """Open the classifier at `path`; nothing of it is run but layers of Keras, or operations of LiteRT.

    Args:
        path: of a `.keras` or `.tflite` file.
        image_size: side of the images, where the file leaves it open.

    Raises:
        InputError: where it cannot be opened, or does not take one square RGB image and answer one row of numbers.
    """
    if not Path(path).is_file():
        raise InputError(f"teacher.file = {path!r} is no file")
    try:
        return _open_keras(path, image_size) if path.endswith(".keras") else _open_litert(path)
    except Exception as error:  # Keras and LiteRT raise half a dozen kinds
        raise InputError(f"teacher.file = {path!r} cannot be used: {reason(error)}") from None


def scaled(images: np.ndarray, input_range: str) -> np.ndarray:
    """Images 0..255, (n, size, size, 3), in one of `RANGES`; float32."""
    black, white = map(np.array, RANGES[input_range])
    return (black + images * ((white - black) / 255)).astype(np.float32)


def logits(answers, reading: Reading, module: ModuleType = np):
    """The logits (n, classes) that answers (n, outputs) stand for, with the functions of `module`, NumPy or keras.ops.

    One output alone tells the second class from the first. Softmax makes of these logits the probabilities again.
    """
    if answers.shape[-1] == 1:
        other = 1 - answers if reading.probabilities else module.zeros_like(answers)
        answers = module.concatenate([other, answers], axis=-1)
    if reading.probabilities:
        answers = module.log(module.maximum(answers, reading.floor))
    return answers if reading.order == sorted(reading.order) else module.take(answers, reading.order, axis=-1)


def _open_keras(path: str, image_size: int) -> OwnFile:
    with zipfile.ZipFile(path) as archive:
        configuration = json.loads(archive.read("config.json"))
    kinds = {(module or "keras", name) for module, name in _kinds(configuration)}
    if foreign := sorted(name for module, name in kinds if module.split(".")[0] != "keras"):
        raise ValueError(f"it has {', '.join(foreign)}, which Keras lacks: convert it to .tflite where it is known")
    if ("keras.layers", "Lambda") in kinds:
        raise ValueError("it has a Lambda layer, whose code is not run: convert it to .tflite where it is trusted")
    network = keras.models.load_model(path, compile=False, safe_mode=True)
    if not (isinstance(network, keras.Sequential) or hasattr(network, "operations")):
        raise ValueError(f"it holds a {type(network).__name__}, should be a functional or a sequential network")
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        raise ValueError(
            f"it has {len(network.inputs)} inputs and {len(network.outputs)} outputs, should have one each"
        )
    _, *shape = network.inputs[0].shape
    size = _side([image_size if side is None else side for side in shape[:-1]] + shape[-1:])

    def connected(input_range: str, ending: Callable[[keras.KerasTensor], dict[str, keras.KerasTensor]]) -> keras.Model:
        """The network between an input, 0..255 scaled to that range, and an ending."""
        black, white = map(np.array, RANGES[input_range])
        for connect in (taken_apart, lambda network, x: network(x)):
            image = x = keras.Input((size, size, 3), name="image")
            if input_range != "0..255":
                x = layers.Rescaling(((white - black) / 255).tolist(), black.tolist(), name="input_range")(image)
            try:
                return keras.Model(image, ending(connect(network, x)), name="teacher")
            except ValueError as error:  # taken apart, its layers may have equal names
                problem = error
        raise problem

    def publish(reading: Reading, directory: Path) -> None:
        teacher = connected(
            reading.input_range, lambda answers: {"logits": logits(ops.cast(answers, "float32"), reading, ops)}
        )
        # Its layers may have been called before, in the file. Copies belong to this network alone.
        copy = keras.models.model_from_json(teacher.to_json())
        copy.set_weights(teacher.get_weights())
        save_network(keras.Model(copy.input, copy.output | feature_maps(copy), name="teacher"), directory)

    plain = connected("0..255", lambda answers: {"answers": ops.cast(answers, "float32")})
    _, *shape = plain.output["answers"].shape
    if len(shape) != 1:
        raise ValueError(f"it answers {tuple(shape)} for each image, should be one number for each class")
    forward = forward_pass(plain)
    return OwnFile(size, shape[0], lambda images: forward(images)["answers"], FLOOR, publish)


def _kinds(configuration: object) -> Iterator[tuple[str | None, str]]:
    """Module and name of every class in the configuration of a `.keras` file, but of how it was trained."""
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
    forward = forward_pass(network)
    return OwnFile(
        network.size,
        network.outputs,
        lambda images: forward(images)["answers"],
        network.floor,
        lambda reading, directory: _publish_litert(content, reading, directory),
        network.input_range,
        _labels(content, network.outputs),
    )


class LiteRTFile:
    """A `.tflite` classifier, called with images (n, size, size, 3) in its own range: `answers`, (n, outputs)."""

    def __init__(self, content: bytes):
        interpreter = Interpreter(model_content=content)
        sources, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        if len(sources) != 1 or len(outputs) != 1:
            raise _not_one(sources, outputs)
        self._network = Network(content, {outputs[0]["name"]: "answers"})
        (self.outputs,) = shape = self._network.output_shapes["answers"] or [0]
        if len(shape) != 1:
            raise ValueError(f"it answers {tuple(shape)} for each image, should be one number for each class")
        shape = self._network.input_shape
        self._channels_first = len(shape) == 3 and shape[0] == 3 != shape[2]  # as PyTorch has them
        self.size = _side([*shape[1:], 3] if self._channels_first else shape)
        self.input_range = _range_of(sources[0])
        self.floor = max(FLOOR, outputs[0]["quantization"][0] / 2)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return self._network(images.transpose(0, 3, 1, 2) if self._channels_first else images)


class LiteRTTeacher:
    """A published `.tflite` teacher: called with images 0..255, (n, size, size, 3) float32, it answers `logits`."""

    def __init__(self, content: bytes, reading: Reading):
        self._file, self._reading = LiteRTFile(content), reading
        self.input_shape = (None, self._file.size, self._file.size, 3)
        self.output = {"logits": (None, len(reading.order))}
        self.parameters, self.macs = _size(content)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        answers = self._file(scaled(images, self._reading.input_range))["answers"]
        return {"logits": logits(answers, self._reading)}


def _publish_litert(content: bytes, reading: Reading, directory: Path) -> None:
    with replacing(directory) as temporary:
        temporary.mkdir()
        (temporary / FILE).write_bytes(content)
        write_json(temporary / SETTINGS, asdict(reading))


def load_trained(directory: str | Path, *names: str) -> keras.Model | LiteRTTeacher:
    """The network that a stage published, with the outputs `names`, or with all that it has.

    Raises `InputError` where files are missing, broken, or do not fit.
    """
    file = Path(directory) / FILE
    if not file.exists():
        network = load_network(directory)
        return select(network, *names) if names else network
    try:
        return LiteRTTeacher(file.read_bytes(), Reading(**read_json(file.with_name(SETTINGS))))
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        raise InputError(f"{file} does not hold a teacher ({reason(error)}): run `dvc repro`") from None


def size(network: keras.Model | LiteRTTeacher) -> dict[str, int]:
    """Number of `parameters`, and `macs`: multiply-accumulates of one image's convolutions and dense layers."""
    if isinstance(network, LiteRTTeacher):
        return {"parameters": network.parameters, "macs": network.macs}
    return {"parameters": network.count_params(), "macs": macs(network)}


def _side(shape: Sequence[int]) -> int:
    if len(shape) != 3 or shape[0] != shape[1] or shape[2] != 3 or shape[0] < 2:
        raise ValueError(f"it takes {tuple(shape)}, should take one square image in RGB: (size, size, 3)")
    return shape[0]


def _not_one(inputs: Sequence, outputs: Sequence) -> ValueError:
    return ValueError(f"it has {len(inputs)} inputs and {len(outputs)} outputs, should have one each")


def _range_of(source: dict) -> str | None:
    """The range of an input of whole numbers, which its quantisation tells."""
    if source["dtype"] == np.float32 or source["dtype"] == np.float16:
        return None
    limits, (scale, zero) = np.iinfo(source["dtype"]), source["quantization"]
    if scale == 0:
        return "0..255"
    low, high = (limits.min - zero) * scale, (limits.max - zero) * scale
    for name, (black, white) in RANGES.items():
        if max(abs(np.mean(black) - low), abs(np.mean(white) - high)) <= NEAR * (high - low):
            return name
    raise ValueError(f"its input is quantised to {low:.3g}..{high:.3g}, should be one of {', '.join(RANGES)}")


def _labels(content: bytes, count: int) -> list[str] | None:
    """The names of classes in the metadata of a LiteRT file: a text file with a line for each."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return None
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            lines = archive.read(name).decode("utf-8", "replace").split("\n") if name.endswith(".txt") else []
            names = [line.strip() for line in lines if line.strip()]
            if len(names) == count:
                return names
    return None


def _size(content: bytes) -> tuple[int, int]:
    """Number of parameters of a LiteRT file, and multiply-accumulates of its convolutions and dense layers."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    graph, kinds = model.subgraphs[0], schema.BuiltinOperator
    weighted = (kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D, kinds.FULLY_CONNECTED)

    def elements(number: int) -> int:
        return int(np.prod(graph.tensors[number].shape))

    operations, constants = 0, set()
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        if max(code.builtinCode, code.deprecatedBuiltinCode) in weighted:
            _, kernel, *bias = operator.inputs
            constants |= {kernel, *(number for number in bias if number >= 0)}
            *places, _ = graph.tensors[operator.outputs[0]].shape
            operations += int(np.prod(places)) * elements(kernel)
    return sum(map(elements, constants)), operations

"""Trained networks as the stages publish and load them: Keras networks, and a teacher from a `.tflite` file.

A `.tflite` teacher is published as it is, beside `SETTINGS`. They say how an image becomes the file's input, and how
the file's answers become logits.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from distillation.errors import InputError, reason
from distillation.files import read_json, replacing, write_json
from distillation.inference.litert import Network
from distillation.networks.network import load_network, macs, select

FILE, SETTINGS = "network.tflite", "settings.json"
_MEAN, _DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # of ImageNet, as in torchvision
# By `teacher.input_range`: what black and white are to the network, in each channel.
RANGES = {
    "0..255": ([0.0] * 3, [255.0] * 3),
    "0..1": ([0.0] * 3, [1.0] * 3),
    "-1..1": ([-1.0] * 3, [1.0] * 3),
    "imagenet": ((-_MEAN / _DEVIATION).tolist(), ((1 - _MEAN) / _DEVIATION).tolist()),
}
FLOOR = 1e-7  # smallest probability that counts, so that each has a logarithm
NEAR = 0.1  # the range of a quantised input may differ from one of `RANGES` by this share of its width


@dataclass(frozen=True)
class Reading:
    """How a file is read.

    `input_range` is one of `RANGES`. `probabilities` says whether the file answers these or logits, and `floor` is the
    smallest probability that counts. `order` has, for each class of the data, the number of the file's output.
    """

    input_range: str
    probabilities: bool
    floor: float
    order: list[int]


def scaled(images: np.ndarray, input_range: str) -> np.ndarray:
    """Images 0..255, (n, size, size, 3), in one of `RANGES`; float32."""
    black, white = map(np.array, RANGES[input_range])
    return (black + images * ((white - black) / 255)).astype(np.float32)


def logits(answers, reading: Reading, module: ModuleType = np):
    """The logits (n, classes) of `answers` (n, outputs), computed with the functions of `module`, NumPy or keras.ops.

    A single output is the probability, or the logit, of the second of two classes. Softmax of the logits gives the
    probabilities again.
    """
    if answers.shape[-1] == 1:
        other = 1 - answers if reading.probabilities else module.zeros_like(answers)
        answers = module.concatenate([other, answers], axis=-1)
    if reading.probabilities:
        answers = module.log(module.maximum(answers, reading.floor))
    return answers if reading.order == sorted(reading.order) else module.take(answers, reading.order, axis=-1)


class LiteRTFile:
    """A `.tflite` classifier, called with images (n, size, size, 3) in its own range: `answers`, (n, outputs)."""

    def __init__(self, content: bytes):
        interpreter = Interpreter(model_content=content)
        sources, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        check_ends(sources, outputs)
        if -1 in sources[0]["shape_signature"][1:]:
            raise ValueError("it leaves the size of its input open: convert it with a fixed one")
        self._network = Network(content, {outputs[0]["name"]: "answers"})
        self.outputs = row_length(self._network.output_shapes["answers"])
        shape = self._network.input_shape
        self._channels_first = len(shape) == 3 and shape[0] == 3 != shape[2]  # as PyTorch has them
        self.size = square_side([*shape[1:], 3] if self._channels_first else shape)
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


def save_litert(content: bytes, reading: Reading, directory: str | Path) -> None:
    """Write the `.tflite` file `content` and its `reading` to `directory`, whole or not at all."""
    with replacing(directory) as temporary:
        temporary.mkdir()
        (temporary / FILE).write_bytes(content)
        write_json(temporary / SETTINGS, asdict(reading))


def load_trained(directory: str | Path, *names: str) -> keras.Model | LiteRTTeacher:
    """The network that a stage published, with the outputs `names`, by default with all of its outputs.

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


def costs(network: keras.Model | LiteRTTeacher) -> dict[str, int]:
    """Number of `parameters`, and `macs`: multiply-accumulates of one image's convolutions and dense layers."""
    if isinstance(network, LiteRTTeacher):
        return {"parameters": network.parameters, "macs": network.macs}
    return {"parameters": network.count_params(), "macs": macs(network)}


def square_side(shape: Sequence[int]) -> int:
    """The side of the images of this shape; `ValueError` where they are not square and RGB."""
    if len(shape) != 3 or shape[0] != shape[1] or shape[2] != 3 or shape[0] < 2:
        raise ValueError(f"it takes {tuple(shape)}, should take one square image in RGB: (size, size, 3)")
    return shape[0]


def check_ends(inputs: Sequence, outputs: Sequence) -> None:
    """Raise `ValueError` unless a network has one input and one output."""
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(f"it has {len(inputs)} inputs and {len(outputs)} outputs, should have one each")


def row_length(shape: Sequence[int]) -> int:
    """How many numbers a network answers for each image; `ValueError` where their shape is not a row."""
    if len(shape) != 1:
        raise ValueError(f"it answers {tuple(shape)} for each image, should be one number for each class")
    return shape[0]


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

"""Running LiteRT networks; this needs no TensorFlow."""

import os

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from distillation.quiet import without_lines


class Network:
    """The content of a LiteRT file, on all cores; `ValueError` where it is none with one input and one output.

    `input_shape` and `output_shape` are those of one picture. Called with a batch of any size, float32
    (batch, *input_shape), it returns float32 (batch, *output_shape), working in portions of the size that
    the network was converted for.
    """

    def __init__(self, content: bytes):
        with without_lines("INFO: Created TensorFlow Lite XNNPACK delegate"):
            self._interpreter = Interpreter(model_content=content, num_threads=os.cpu_count())
            self._interpreter.allocate_tensors()
        (self._source,), (self._sink,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._portion, *self.input_shape = self._source["shape"].tolist()
        _, *self.output_shape = self._sink["shape"].tolist()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        count = len(images)
        if count % self._portion:
            images = np.pad(images, ((0, -count % self._portion), (0, 0), (0, 0), (0, 0)))
        outputs = []
        for start in range(0, len(images), self._portion):
            portion = _quantised(images[start : start + self._portion], self._source)
            self._interpreter.set_tensor(self._source["index"], portion)
            self._interpreter.invoke()
            outputs.append(_dequantised(self._interpreter.get_tensor(self._sink["index"]), self._sink))
        return np.concatenate(outputs)[:count]


def _quantised(values: np.ndarray, tensor: dict) -> np.ndarray:
    scale, zero_point = tensor["quantization"]
    if scale == 0:
        return values.astype(tensor["dtype"], copy=False)
    limits = np.iinfo(tensor["dtype"])
    return np.clip(np.round(values / scale) + zero_point, limits.min, limits.max).astype(tensor["dtype"])


def _dequantised(values: np.ndarray, tensor: dict) -> np.ndarray:
    scale, zero_point = tensor["quantization"]
    return values.astype(np.float32) if scale == 0 else (values.astype(np.float32) - zero_point) * np.float32(scale)

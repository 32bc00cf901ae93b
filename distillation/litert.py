"""Running LiteRT networks; this needs no TensorFlow."""

import os

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from distillation.quiet import without_lines


class Network:
    """The network in a LiteRT file, given as bytes, run on all cores.

    It must have one input and one output, and take one picture at a time; else `ValueError`. Called with a
    batch, float32 (batch, *input_shape), it returns float32 (batch, *output_shape), quantised inside or not.
    """

    def __init__(self, content: bytes):
        with without_lines("INFO: Created TensorFlow Lite XNNPACK delegate"):
            self._interpreter = Interpreter(model_content=content, num_threads=os.cpu_count())
            self._interpreter.allocate_tensors()
        (self._source,), (self._sink,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        (one, *self.input_shape), (_, *self.output_shape) = (t["shape"].tolist() for t in (self._source, self._sink))
        if one != 1:
            raise ValueError(f"it takes {one} pictures at a time, should take one")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        outputs = []
        for image in images:
            self._interpreter.set_tensor(self._source["index"], _quantised(image[None], self._source))
            self._interpreter.invoke()
            outputs.append(_dequantised(self._interpreter.get_tensor(self._sink["index"]), self._sink))
        return np.concatenate(outputs)


def _quantised(values: np.ndarray, tensor: dict) -> np.ndarray:
    scale, zero_point = tensor["quantization"]
    if scale == 0:
        return values.astype(tensor["dtype"], copy=False)
    limits = np.iinfo(tensor["dtype"])
    return np.clip(np.round(values / scale) + zero_point, limits.min, limits.max).astype(tensor["dtype"])


def _dequantised(values: np.ndarray, tensor: dict) -> np.ndarray:
    scale, zero_point = tensor["quantization"]
    return values.astype(np.float32) if scale == 0 else (values.astype(np.float32) - zero_point) * np.float32(scale)

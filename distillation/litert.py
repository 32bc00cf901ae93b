"""Running LiteRT networks; this needs no TensorFlow."""

import threading

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from distillation.quiet import without_lines


class Network:
    """The network in a LiteRT file, given as bytes. Each thread that calls it has an interpreter of its own.

    For several cores call it from several threads: an interpreter's own threads wait for each other after every
    layer. It must have one input and one output, and take one picture at a time; else `ValueError`. Called with a
    batch, float32 (batch, *input_shape), it returns float32 (batch, *output_shape), quantised inside or not.
    """

    def __init__(self, content: bytes):
        self._content, self._own = content, threading.local()
        with without_lines("INFO: Created TensorFlow Lite XNNPACK delegate"):
            _, source, sink = self._interpreter()
        (one, *self.input_shape), (_, *self.output_shape) = source["shape"].tolist(), sink["shape"].tolist()
        if one != 1:
            raise ValueError(f"it takes {one} pictures at a time, should take one")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        interpreter, source, sink = self._interpreter()
        outputs = np.empty((len(images), *self.output_shape), np.float32)
        for image, output in zip(images, outputs, strict=True):
            interpreter.set_tensor(source["index"], _quantised(image[None], source))
            interpreter.invoke()
            output[:] = _dequantised(interpreter.get_tensor(sink["index"])[0], sink)
        return outputs

    def _interpreter(self) -> tuple[Interpreter, dict, dict]:
        """This thread's interpreter, its input and its output."""
        if not hasattr(self._own, "interpreter"):
            interpreter = Interpreter(model_content=self._content, num_threads=1)
            interpreter.allocate_tensors()
            (source,), (sink,) = interpreter.get_input_details(), interpreter.get_output_details()
            self._own.interpreter = interpreter, source, sink
        return self._own.interpreter


def _quantised(values: np.ndarray, tensor: dict) -> np.ndarray:
    scale, zero_point = tensor["quantization"]
    if scale == 0:
        return values.astype(tensor["dtype"], copy=False)
    limits = np.iinfo(tensor["dtype"])
    return np.clip(np.round(values / scale) + zero_point, limits.min, limits.max).astype(tensor["dtype"])


def _dequantised(values: np.ndarray, tensor: dict) -> np.ndarray:
    scale, zero_point = tensor["quantization"]
    return values.astype(np.float32) if scale == 0 else (values.astype(np.float32) - zero_point) * np.float32(scale)

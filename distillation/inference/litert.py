"""Running LiteRT networks, without TensorFlow."""

import threading

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from distillation.quiet import without_lines


class Network:
    """The network in a LiteRT file, given as bytes. Each thread that calls it has an interpreter of its own.

    To use several cores, call it from several threads: an interpreter's own threads wait for each other after every
    layer. Called with a batch, float32 (batch, *input_shape), it returns each output by name, float32 (batch, *shape),
    also where the network is quantised. Raises `ValueError` unless it has one input and takes one image at a time.

    Args:
        content: of the file.
        names: the outputs' names by tensor name; by default those in the file's signature.
    """

    def __init__(self, content: bytes, names: dict[str, str] | None = None):
        self.content, self.names, self._own = content, names, threading.local()
        with without_lines("INFO: Created TensorFlow Lite XNNPACK delegate"):
            _, source, outputs = self._interpreter()
        one, *self.input_shape = source["shape"].tolist()
        self.output_shapes = {name: tensor["shape"].tolist()[1:] for name, tensor in outputs.items()}
        if one != 1:
            raise ValueError(f"it takes {one} images at a time, should take one")

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        interpreter, source, outputs = self._interpreter()
        answers = {name: np.empty((len(images), *shape), np.float32) for name, shape in self.output_shapes.items()}
        for number, image in enumerate(images):
            interpreter.set_tensor(source["index"], _quantised(image[None], source))
            interpreter.invoke()
            for name, tensor in outputs.items():
                answers[name][number] = _dequantised(interpreter.get_tensor(tensor["index"])[0], tensor)
        return answers

    def _interpreter(self) -> tuple[Interpreter, dict, dict[str, dict]]:
        """This thread's interpreter, its input, and its outputs by name."""
        if not hasattr(self._own, "interpreter"):
            interpreter = Interpreter(model_content=self.content, num_threads=1)
            interpreter.allocate_tensors()
            (source,) = interpreter.get_input_details()
            if self.names is None:
                outputs = interpreter.get_signature_runner().get_output_details()
            else:
                outputs = {self.names[tensor["name"]]: tensor for tensor in interpreter.get_output_details()}
            self._own.interpreter = interpreter, source, outputs
        return self._own.interpreter


def _quantised(values: np.ndarray, tensor: dict) -> np.ndarray:
    scale, zero_point = tensor["quantization"]
    if np.issubdtype(tensor["dtype"], np.floating):
        return values.astype(tensor["dtype"], copy=False)
    limits = np.iinfo(tensor["dtype"])
    return np.clip(np.round(values / (scale or 1)) + zero_point, limits.min, limits.max).astype(tensor["dtype"])


def _dequantised(values: np.ndarray, tensor: dict) -> np.ndarray:
    scale, zero_point = tensor["quantization"]
    return values.astype(np.float32) if scale == 0 else (values.astype(np.float32) - zero_point) * np.float32(scale)

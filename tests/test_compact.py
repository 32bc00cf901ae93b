"""Compacted LiteRT files: the same answers bit by bit, in fewer bytes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from helpers import changed
from keras import layers

from distillation.inference.compact import ALIGNMENT, compact
from distillation.inference.forward import to_litert
from distillation.networks.students import build_student
from distillation.params import Params
from stages.export import variants

VARIANTS = ("float32", "float16", "int8")


@pytest.fixture(scope="module")
def student(params: Params) -> keras.Model:
    keras.utils.set_random_seed(0)
    network = build_student(changed(params.student, network="resnet8", channels=[8, 16], stem_stride=4), 3)
    return keras.Model(network.input, {"probabilities": layers.Softmax()(network.output["logits"])})


@pytest.fixture(scope="module")
def contents(student: keras.Model) -> dict[str, bytes]:
    """The student's files as the converter writes them."""
    asked = variants(tf.data.Dataset.from_tensors(images(8)))
    return {name: to_litert(student, asked[name]) for name in VARIANTS}


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (count, 32, 32, 3)).astype(np.float32)


def answers(content: bytes, kernels: OpResolverType) -> np.ndarray:
    """The file's answers to some images, unchanged."""
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=kernels)
    runner = interpreter.get_signature_runner()
    dtype = runner.get_input_details()["image"]["dtype"]
    return np.stack([runner(image=image[None].astype(dtype))["probabilities"] for image in images(8)])


@pytest.mark.parametrize("kernels", [OpResolverType.AUTO, OpResolverType.BUILTIN_REF], ids=["XNNPACK", "reference"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_compact_file_answers_with_the_same_bits(contents: dict[str, bytes], variant: str, kernels: OpResolverType):
    expected = answers(contents[variant], kernels)
    assert expected.std() > 0
    assert np.array_equal(answers(compact(contents[variant]), kernels), expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_compact_file_is_smaller_and_always_the_same(contents: dict[str, bytes], variant: str):
    small = compact(contents[variant])
    assert len(small) < len(contents[variant]) - 1500
    assert compact(contents[variant]) == small
    assert compact(small) == small


def test_whole_numbers_take_little_more_than_the_weights(student: keras.Model, contents: dict[str, bytes]):
    """For each channel of a layer the file needs a bias and two scales, 12 bytes; the converter takes 28."""
    convolutions = [layer for layer in student.layers if isinstance(layer, layers.Conv2D | layers.Dense)]
    weights = sum(layer.kernel.shape.num_elements() for layer in convolutions)
    channels = sum(layer.kernel.shape[-1] for layer in convolutions)
    files = contents["int8"], compact(contents["int8"])
    converted, compacted = (len(content) - weights - 12 * channels for content in files)
    assert compacted < 5000
    assert compacted < converted / 1.5


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_tensors_hold_is_aligned_as_the_schema_wants(contents: dict[str, bytes], variant: str):
    content = compact(contents[variant])
    model = schema.Model.GetRootAs(content)
    assert schema.Model.ModelBufferHasIdentifier(content, 0)
    held = [model.Buffers(number).DataAsNumpy() for number in range(model.BuffersLength())]
    arrays = [array for array in held if isinstance(array, np.ndarray)]
    start = np.frombuffer(content, np.uint8).ctypes.data
    assert len(arrays) > 5
    assert {(array.ctypes.data - start) % ALIGNMENT for array in arrays} == {0}
    assert len({array.tobytes() for array in arrays}) == len(arrays)


def test_only_inputs_and_outputs_have_names(contents: dict[str, bytes]):
    details = Interpreter(model_content=compact(contents["float32"])).get_tensor_details()
    assert {tensor["name"] for tensor in details} == {"image", "probabilities", ""}

"""Students: compact networks, each one function and one entry of `STUDENTS`."""

from collections.abc import Mapping, Sequence

import keras
from keras import layers

from distillation.params import Student

STEM_OVERLAP = 3  # pixels that neighbouring windows of the stem share


def build_student(student: Student, classes: int) -> keras.Model:
    """The student that `student` asks for, with random weights; its outputs are those of `network.py`."""
    image = keras.Input((student.image_size, student.image_size, 3), name="image")
    scaled = layers.Rescaling(1 / 127.5, offset=-1)(image)
    middle_map, last_map = STUDENTS[student.network](scaled, student)
    logits = layers.Dense(classes)(layers.GlobalAveragePooling2D()(last_map))
    outputs = {"logits": logits, "middle_map": middle_map, "last_map": last_map}
    return keras.Model(image, outputs, name="student")


def residual(x: keras.KerasTensor, student: Student) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """A residual CNN: the maps of its last stage but one (which may be the stem) and of its last.

    The stem divides the map's side by its stride, every stage halves it. Plain 3x3 convolutions: on
    CPUs they train faster than separable ones of equal size. Batch normalisation stands only at the
    end of each residual branch, its scale starting at zero, so that a pair starts as its shortcut:
    everywhere else too, it would slow a training step by about a third.
    """
    stem, *stages = student.channels
    maps = [layers.ReLU()(_convolution(stem, student.stem_stride + STEM_OVERLAP, student.stem_stride)(x))]
    for channels in stages:
        x = _residual_pair(maps[-1], channels, stride=2)
        for _ in range(1, student.blocks):
            x = _residual_pair(layers.ReLU()(x), channels)
        maps.append(layers.ReLU()(x))
    return maps[-2], maps[-1]


# By `student.network`: each from an image scaled to -1..1 and its settings to the middle and the last feature map.
STUDENTS = {"residual": residual}


def with_projections(student: keras.Model, shapes: Mapping[str, Sequence[int]]) -> keras.Model:
    """`student` with each of its maps named in `shapes` brought to that shape (height, width, channels).

    The 1x1 convolutions that do it are there for training alone.
    """
    outputs = {"logits": student.output["logits"]}
    for name, (height, width, channels) in shapes.items():
        features = student.output[name]
        if features.shape[1:3] != (height, width):
            features = layers.Resizing(height, width)(features)
        outputs[name] = layers.Conv2D(channels, 1)(features)
    return keras.Model(student.input, outputs)


def _residual_pair(x, channels: int, stride: int = 1):
    y = layers.ReLU()(_convolution(channels, 3, stride)(x))
    y = _convolution(channels, 3, use_bias=False)(y)
    y = layers.BatchNormalization(momentum=0.9, gamma_initializer="zeros")(y)
    if stride > 1:
        x = layers.AveragePooling2D(stride, padding="same")(x)
    if x.shape[-1] != channels:
        x = _convolution(channels, 1)(x)
    return layers.Add()([x, y])


def _convolution(channels: int, kernel: int, stride: int = 1, use_bias: bool = True) -> layers.Layer:
    return layers.Conv2D(channels, kernel, stride, padding="same", use_bias=use_bias, kernel_initializer="he_normal")

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


def inverted_residual(x: keras.KerasTensor, student: Student) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Inverted residuals with squeeze-excitation and hard-swish, as in MobileNetV3 (Howard et al., 2019).

    Few parameters and operations for what it can do, but depthwise convolutions train slowly on CPUs. As there, a
    last 1x1 convolution widens the map before it is averaged, and hard-swish stands in the second half alone: on
    large maps it costs more than the convolutions, since LiteRT's quick kernels of whole numbers don't have it.
    """
    stem, *stages = student.channels
    maps = [_normalised(_stem(stem, student.stem_stride)(x), "relu")]
    for stage, channels in enumerate(stages):
        activation = "hard_silu" if 2 * stage >= len(stages) else "relu"
        x = _inverted_residual(maps[-1], channels, student.expansion, activation, stride=2)
        for _ in range(1, student.blocks):
            x = _inverted_residual(x, channels, student.expansion, activation)
        maps.append(x)
    widened = _convolution(student.expansion * x.shape[-1], 1, use_bias=False)(x)
    return maps[-2], _normalised(widened, "hard_silu")


def resnet8(x: keras.KerasTensor, student: Student) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """ResNet-8, the reference for image classification of MLPerf Tiny (Banbury et al., 2021).

    With `channels` [16, 32, 64], `blocks` 1 and `stem_stride` 1 it is that network. Unlike in `residual`, the stem is
    followed by a stage of its own size, and normalisation by every convolution but those of the shortcuts.
    """
    x = _normalised(_stem(student.channels[0], student.stem_stride, use_bias=True)(x), "relu")
    maps = []
    for stage, channels in enumerate(student.channels):
        for block in range(student.blocks):
            x = _normalised_pair(x, channels, stride=2 if stage and not block else 1)
        maps.append(x)
    return maps[-2], maps[-1]


# By `student.network`: each from an image scaled to -1..1 and its settings to the middle and the last feature map.
STUDENTS = {"residual": residual, "inverted_residual": inverted_residual, "resnet8": resnet8}


def with_projections(student: keras.Model, shapes: Mapping[str, Sequence[int]]) -> keras.Model:
    """`student` with each of its maps named in `shapes` brought to that shape (height, width, channels).

    The 1x1 convolutions that do it are there for training alone. Whether they stand before or behind bilinear resizing
    makes no difference but in time: they work on the smaller map.
    """
    outputs = {"logits": student.output["logits"]}
    for name, (height, width, channels) in shapes.items():
        features, project = student.output[name], layers.Conv2D(channels, 1)
        side, resize = features.shape[1:3], layers.Resizing(height, width)
        if side == (height, width):
            outputs[name] = project(features)
        elif side < (height, width):
            outputs[name] = resize(project(features))
        else:
            outputs[name] = project(resize(features))
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


def _inverted_residual(x, channels: int, expansion: int, activation: str, stride: int = 1):
    """Widened, filtered, weighted channel by channel, and narrowed again; with a shortcut where the shape stays."""
    wide = expansion * x.shape[-1]
    y = _normalised(_convolution(wide, 1, use_bias=False)(x), activation)
    y = layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False, depthwise_initializer="he_normal")(y)
    y = _normalised(y, activation)
    squeezed = layers.GlobalAveragePooling2D(keepdims=True)(y)
    squeezed = layers.ReLU()(_convolution(max(1, wide // 4), 1)(squeezed))
    y = layers.Multiply()([y, layers.Activation("hard_sigmoid")(_convolution(wide, 1)(squeezed))])
    y = _convolution(channels, 1, use_bias=False)(y)
    if stride > 1 or x.shape[-1] != channels:
        return layers.BatchNormalization(momentum=0.9)(y)
    return layers.Add()([x, layers.BatchNormalization(momentum=0.9, gamma_initializer="zeros")(y)])


def _normalised_pair(x, channels: int, stride: int = 1):
    y = _normalised(_convolution(channels, 3, stride)(x), "relu")
    y = layers.BatchNormalization(momentum=0.9)(_convolution(channels, 3)(y))
    if stride > 1 or x.shape[-1] != channels:
        x = _convolution(channels, 1, stride)(x)
    return layers.ReLU()(layers.Add()([x, y]))


def _normalised(x, activation: str):
    return layers.Activation(activation)(layers.BatchNormalization(momentum=0.9)(x))


def _stem(channels: int, stride: int, use_bias: bool = False) -> layers.Layer:
    """3x3, as published; of stride 4, which is not, 7x7, so that neighbouring windows overlap."""
    return _convolution(channels, 3 if stride < 4 else stride + STEM_OVERLAP, stride, use_bias)


def _convolution(channels: int, kernel: int, stride: int = 1, use_bias: bool = True) -> layers.Layer:
    return layers.Conv2D(channels, kernel, stride, padding="same", use_bias=use_bias, kernel_initializer="he_normal")

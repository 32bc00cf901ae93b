"""The student: a compact residual CNN, and the training that its scratch and its distilled version share."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from distillation import training
from distillation.losses import DistillationLoss
from distillation.params import Params, Student
from distillation.records import Records

STEM_OVERLAP = 3  # pixels that neighbouring windows of the stem share
MAP = "map_"  # how the layers whose outputs are the stem's and the stages' feature maps are called


def build_student(student: Student, classes: int) -> keras.Model:
    """A residual CNN: RGB 0..255 of `student.image_size` in, logits out.

    The stem divides the map's side by its stride, every stage halves it. Plain 3x3 convolutions: on
    CPUs they train faster than separable ones of equal size. Batch normalisation stands only at the
    end of each residual branch, its scale starting at zero, so that a pair starts as its shortcut:
    everywhere else too, it would slow a training step by about a third.
    """
    inputs = keras.Input((student.image_size, student.image_size, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    stem, *stages = student.channels
    x = _convolution(stem, student.stem_stride + STEM_OVERLAP, student.stem_stride)(x)
    x = layers.ReLU(name=f"{MAP}0")(x)
    for stage, channels in enumerate(stages, 1):
        x = _residual_pair(x, channels, stride=2)
        for _ in range(1, student.blocks):
            x = _residual_pair(layers.ReLU()(x), channels)
        x = layers.ReLU(name=f"{MAP}{stage}")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes)(x), name="student")


def train_student(
    stage: str, name: str, params: Params, loss: DistillationLoss, soft_targets: Sequence[np.memmap] = ()
) -> str:
    """Train and publish a student; both share initial weights, data order, views, schedule and budget.

    Without a teacher it learns from the labeled pictures alone, in as many steps.

    Args:
        stage: the stage in dvc.yaml.
        name: what the published files are called.
        params: all parameters.
        loss: on packed rows.
        soft_targets: the teacher's cached answers: none, logits (views, n, classes), or these and
            feature maps (views, n, height, width, channels), n the number of training images.

    Returns:
        The stage's line of result.
    """
    train = Records("data/records", "train", labeled_only=not soft_targets)
    validation = Records("data/records", "validation")
    student = params.student
    training.set_seed(student.seed)
    model = build_student(student, loss.classes)
    history = training.fit(
        stage,
        with_projections(model, [maps.shape[2:] for maps in soft_targets[1:]]),
        training.view_batches(train, student.image_size, params.views, student, soft_targets),
        training.plain_batches(validation, student.image_size, student.batch_size),
        train.manifest.size("train"),
        student,
        loss,
        student.warmup_epochs,
    )
    return training.publish(stage, name, model, history)


def with_projections(model: keras.Model, shapes: Sequence[Sequence[int]]) -> keras.Model:
    """`model` with its feature maps, the last first, brought to `shapes` and packed behind the logits.

    The 1x1 convolutions that do it are thrown away after training. Each of `shapes` is (height, width, channels).
    """
    maps = [layer.output for layer in reversed(model.layers) if layer.name.startswith(MAP)]
    outputs = [model.output]
    for features, (height, width, channels) in zip(maps, shapes, strict=False):
        if features.shape[1:3] != (height, width):
            features = layers.Resizing(height, width)(features)
        outputs.append(layers.Flatten()(layers.Conv2D(channels, 1)(features)))
    return keras.Model(model.input, layers.Concatenate()(outputs)) if shapes else model


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

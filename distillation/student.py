"""The student: a compact residual CNN, and the training that its scratch and its distilled version share."""

import keras
import numpy as np
from keras import layers

from distillation import training
from distillation.errors import InputError
from distillation.params import Params, Student
from distillation.records import Records

STEM_KERNEL, STEM_STRIDE = 7, 4


def build_student(student: Student, classes: int) -> keras.Model:
    """A residual CNN whose stem shrinks the picture fourfold at once.

    Plain 3x3 convolutions on small maps: on CPUs they train faster than separable ones of equal
    size, and most of a step's time goes where maps are large.
    """
    inputs = keras.Input((student.image_size, student.image_size, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    for stage, channels in enumerate(student.channels):
        x = _convolution(x, channels, *((STEM_KERNEL, STEM_STRIDE) if stage == 0 else (3, 2)))
        for _ in range(student.blocks if stage > 0 else 0):
            y = _convolution(x, channels, 3, 1)
            y = _convolution(y, channels, 3, 1, activation=False)
            x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes)(x), name="student")


def train_student(
    stage: str,
    name: str,
    params: Params,
    teacher_logits: np.ndarray | None = None,
    loss: keras.losses.Loss | None = None,
) -> str:
    """Train and publish a student; both share initial weights, data order, views, schedule and budget.

    Args:
        stage: the stage in dvc.yaml.
        name: what the published files are called.
        params: all parameters.
        teacher_logits: (training images, views, classes) float32, or None to train from hard labels alone.
        loss: on packed targets (`distillation/losses.py`), or None for the cross-entropy.

    Returns:
        The stage's line of result.
    """
    train, validation = (Records("data/records", split) for split in ("train", "validation"))
    student, classes = params.student, len(train.manifest.classes)
    if teacher_logits is not None and teacher_logits.shape != (len(train), params.views.count, classes):
        raise InputError(
            f"the cached teacher logits have shape {teacher_logits.shape}; "
            f"the records and params ask for {(len(train), params.views.count, classes)}: run `dvc repro`"
        )
    training.set_seed(student.seed)
    model = build_student(student, classes)
    history = training.fit(
        stage,
        model,
        training.view_batches(train, student.image_size, params.views, student, teacher_logits),
        training.plain_batches(validation, student.image_size, student.batch_size),
        len(train),
        student,
        student.warmup_epochs,
        loss,
    )
    return training.publish(stage, name, model, history)


def _convolution(x, channels: int, kernel: int, stride: int, activation: bool = True):
    x = layers.Conv2D(channels, kernel, stride, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    return layers.ReLU()(x) if activation else x

"""How much faster is a training step of the student than of a plain residual CNN of its size?

That CNN has 218 thousand parameters and 22 million multiply-accumulates at 96 px: a 3x3 stem of 16
channels and stride 2, then 24, 48 and 80 channels, each a 3x3 convolution of stride 2 and one
residual pair, batch normalisation behind each convolution. Both on one batch held in memory,
trained from scratch.

Bound by convolutions, which take three quarters of the student's step.
"""

from collections.abc import Callable

import keras
import tensorflow as tf
from keras import layers

from benchmarks._timing import answer, interleaved, record
from benchmarks._workspace import CLASSES, PRESET, random_batch, training_step
from distillation.networks.network import select
from distillation.networks.students import build_student
from distillation.preset import complete
from distillation.training.fit import set_seed
from distillation.training.objective import Objective


def main() -> None:
    set_seed(0)
    student = complete(PRESET).student
    labels = tf.range(student.batch_size, dtype=tf.int64) % len(CLASSES)

    def step(network: keras.Model) -> Callable[[], object]:
        batch = {"image": random_batch(student.batch_size, network.input_shape[1]), "label": labels}
        return training_step(network, tf.data.Dataset.from_tensors(batch).repeat(), Objective(), student)

    ours = step(select(build_student(student, len(CLASSES)), "logits"))
    seconds = interleaved(step(_plain_cnn()), ours, rounds=25, calls=8, untimed=2)
    record(student_train_speedup=answer(__doc__, seconds[:, 0] / seconds[:, 1], ">= 2"))


def _plain_cnn() -> keras.Model:
    inputs = keras.Input((96, 96, 3), name="image")
    x = _convolution(layers.Rescaling(1 / 127.5, offset=-1)(inputs), 16, stride=2)
    for channels in (24, 48, 80):
        x = _convolution(x, channels, stride=2)
        x = layers.Add()([x, _convolution(_convolution(x, channels), channels)])
    return keras.Model(inputs, {"logits": layers.Dense(len(CLASSES))(layers.GlobalAveragePooling2D()(x))})


def _convolution(x, channels: int, stride: int = 1):
    x = layers.Conv2D(channels, 3, stride, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


if __name__ == "__main__":
    main()

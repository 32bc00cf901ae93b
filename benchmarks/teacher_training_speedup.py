"""How much faster is the teacher trained than by fitting the frozen network for five epochs?

The naive way: `Model.fit` of a head on the frozen backbone, in TensorFlow, every picture through it
in every one of 5 epochs; a step is timed, its batch prefetched. Ours: `train_teacher`'s passes through LiteRT,
one of the plain pictures and one a view (the preset has none), and then the preset's epochs of the head on
their features.
What either pays once, whatever the number of pictures, is left out: compilation, and the conversion to LiteRT.

Bound by the one pass of each picture through the backbone: at most 5 times what LiteRT gains over
TensorFlow's own pass, which in a training step (batches of 128, oneDNN) is 1.6 to 2.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from benchmarks._timing import answer, interleaved, record
from benchmarks._workspace import CLASSES, random_teacher, training_step, workspace
from distillation import training
from distillation.inference import forward_pass, plain_images, predict, view_images
from distillation.losses import DistillationLoss
from distillation.records import Records
from distillation.teacher import HEAD

NAIVE_EPOCHS = 5


def main() -> None:
    training.set_seed(0)
    with workspace(images=512) as params:
        settings, train, loss = params.teacher, Records("data/records", "train"), DistillationLoss(len(CLASSES))
        teacher = random_teacher(params)
        backbone = keras.Model(teacher.input, teacher.get_layer(HEAD).input)
        backbone.trainable = False
        once = settings.model_copy(update={"batch_size": min(settings.batch_size, len(train))})
        views = training.view_batches(train, settings.image_size, params.views, once)
        naive_step = training_step(teacher, views(range(100)), once, loss)

        forward = forward_pass(backbone)
        passes = [plain_images(train, settings.image_size)]
        passes += [view_images(train, settings.image_size, params.views, view) for view in range(settings.views)]

        def features() -> np.ndarray:
            return np.concatenate([predict(forward, images, "") for images in passes])

        inputs = keras.Input(backbone.output.shape[1:])
        head = keras.Model(inputs, layers.Dense(len(CLASSES))(layers.Dropout(settings.dropout)(inputs)))
        labels = np.tile(train.labels, len(passes))[:, None].astype(np.float32)
        rows = tf.data.Dataset.from_tensor_slices((features(), labels)).repeat().batch(settings.batch_size)
        head_step = training_step(head, rows, settings, loss)
        head_steps = settings.epochs * len(labels) // settings.batch_size

        def ours() -> None:
            features()
            for _ in range(head_steps):
                head_step()

        seconds = interleaved(naive_step, ours, rounds=5)
        epochs = NAIVE_EPOCHS * len(train) / once.batch_size
        record(teacher_training_speedup=answer(__doc__, epochs * seconds[:, 0] / seconds[:, 1], ">= 10"))


if __name__ == "__main__":
    main()

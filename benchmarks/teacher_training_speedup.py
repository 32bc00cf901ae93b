"""How much faster is the teacher trained than by fitting the frozen network for five epochs?

The naive way is `Model.fit` of a head on the frozen backbone in TensorFlow, with every image through the backbone in
each of 5 epochs; a step on a prefetched batch is timed. Our way is that of `train_teacher`: one pass of the plain
images through LiteRT, one for each view (the preset has none), and the head solved on these features. Compilation and
the conversion to LiteRT are left out, since their time does not depend on the number of images.

Bound by the one pass of each image through the backbone: at most 5 times what LiteRT gains over
TensorFlow's own pass, which in a training step (batches of 128, oneDNN) is 1.6 to 2.
"""

import keras
import numpy as np

from benchmarks._timing import answer, interleaved, record
from benchmarks._workspace import CLASSES, random_teacher, training_step, workspace
from distillation.data.records import Records
from distillation.inference.forward import forward_pass, plain_images, predict, view_images
from distillation.networks.teachers import HEAD
from distillation.training.batches import view_stream
from distillation.training.fit import set_seed
from distillation.training.head import solve_head
from distillation.training.objective import Objective

NAIVE_EPOCHS = 5


def main() -> None:
    set_seed(0)
    with workspace(images=512) as params:
        settings, train = params.teacher, Records("train")
        teacher = random_teacher(params)
        backbone = keras.Model(teacher.input, {"features": teacher.get_layer(HEAD).input})
        backbone.trainable = False
        batches = view_stream(train, settings.image_size, params.views, settings)(0)
        naive_step = training_step(teacher, batches, Objective(), settings)

        forward = forward_pass(backbone)
        passes = [plain_images(train, settings.image_size)]
        views = round(params.budget.teacher / len(train)) - 1  # beside the plain one
        if views > 0:
            passes.append(view_images(train, settings.image_size, params.views, views))

        def features() -> np.ndarray:
            return np.concatenate([predict(forward, images, "")["features"] for images in passes])

        labels = np.tile(train.labels, len(passes) + max(0, views - 1))
        validation = Records("validation")
        held_out = predict(forward, plain_images(validation, settings.image_size), "")["features"]

        def ours() -> None:
            solve_head(features(), labels, held_out, validation.labels, len(CLASSES))

        seconds = interleaved(naive_step, ours, rounds=5)
        epochs = NAIVE_EPOCHS * len(train) / settings.batch_size
        record(teacher_training_speedup=answer(__doc__, epochs * seconds[:, 0] / seconds[:, 1], ">= 10"))


if __name__ == "__main__":
    main()

"""What does a distillation step with the teacher online cost, in steps with the cached teacher?

Online is `keras.distillation.Distiller`, with its loss put right: as the default `"kl_divergence"` it
would take logits for probabilities. It demands inputs of one shape, so its teacher sees the
student's view magnified, and it asks the teacher for logits alone.

Bound by the teacher's forward pass in TensorFlow.
"""

import keras
from keras import layers

from benchmarks._timing import answer, interleaved, record
from benchmarks._workspace import CLASSES, distilled, random_teacher, training_step, workspace
from distillation import training
from distillation.losses import DistillationLoss
from distillation.params import Params
from distillation.records import Records
from distillation.student import build_student

CACHED_STEPS = 8  # to one that is online


def main() -> None:
    training.set_seed(0)
    with workspace(images=2048) as params:
        train, student = Records("data/records", "train"), params.student
        model, batches, loss = distilled(params, train)
        cached = training_step(model, batches, student, loss)
        batches = training.view_batches(train, student.image_size, params.views, student)(range(student.epochs))
        online = training_step(_distiller(params), batches, student, DistillationLoss(len(CLASSES)))

        def cached_steps() -> None:
            for _ in range(CACHED_STEPS):
                cached()

        seconds = interleaved(online, cached_steps, rounds=5, untimed=1)
    record(online_over_cached=answer(__doc__, CACHED_STEPS * seconds[:, 0] / seconds[:, 1], ">= 4"))


def _distiller(params: Params) -> keras.Model:
    inputs = keras.Input((params.student.image_size, params.student.image_size, 3))
    magnified = layers.Resizing(params.teacher.image_size, params.teacher.image_size)(inputs)
    return keras.distillation.Distiller(
        teacher=keras.Model(inputs, random_teacher(params)(magnified)),
        student=build_student(params.student, len(CLASSES)),
        distillation_losses=keras.distillation.LogitsDistillation(
            params.distill.temperature, loss=keras.losses.KLDivergence()
        ),
        student_loss_weight=params.distill.alpha,
    )


if __name__ == "__main__":
    main()

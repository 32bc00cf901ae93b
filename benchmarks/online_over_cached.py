"""How many times as long as a step with the cached teacher does a step with the teacher online take?

Online is `keras.distillation.Distiller` with a corrected loss: the default `"kl_divergence"` would take logits for
probabilities. It needs inputs of one shape, so its teacher sees the student's view magnified. It uses logits alone.

Bound by the teacher's forward pass in TensorFlow.
"""

import keras
from keras import layers

from benchmarks._timing import answer, interleaved, record
from benchmarks._workspace import CLASSES, distilled, random_teacher, scratch, training_step, workspace
from distillation.data.records import Records
from distillation.networks.network import select
from distillation.networks.students import build_student
from distillation.params import Params
from distillation.training.fit import scheduled, set_seed

CACHED_STEPS = 8  # to one that is online


def main() -> None:
    set_seed(0)
    with workspace(images=2048, views=6) as params:
        train = Records("train")
        cached = training_step(*distilled(params, train), params.student)
        _, batches, _ = scratch(params, train)
        online = _distiller(params)
        online.compile(scheduled(params.student, steps=1_000_000), keras.losses.SparseCategoricalCrossentropy(True))
        online.make_train_function()
        pairs = iter(batches.map(lambda batch: (batch["image"], batch["label"])).prefetch(4))

        def cached_steps() -> None:
            for _ in range(CACHED_STEPS):
                cached()

        seconds = interleaved(lambda: online.train_function(pairs), cached_steps, rounds=5, untimed=1)
    record(online_over_cached=answer(__doc__, CACHED_STEPS * seconds[:, 0] / seconds[:, 1], ">= 4"))


def _distiller(params: Params) -> keras.Model:
    inputs = keras.Input((params.student.image_size, params.student.image_size, 3))
    magnified = layers.Resizing(params.teacher.image_size, params.teacher.image_size)(inputs)
    student = select(build_student(params.student, len(CLASSES)), "logits")
    return keras.distillation.Distiller(
        teacher=keras.Model(inputs, random_teacher(params)(magnified)["logits"]),
        student=keras.Model(inputs, student(inputs)["logits"]),
        distillation_losses=keras.distillation.LogitsDistillation(
            params.distill.temperature, loss=keras.losses.KLDivergence()
        ),
        student_loss_weight=params.distill.alpha,
    )


if __name__ == "__main__":
    main()

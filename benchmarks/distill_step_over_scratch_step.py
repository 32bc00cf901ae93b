"""What does a training step with the cached teacher cost, in steps from scratch?

Both with their input pipelines, as `distill` and `train_scratch` run them.

Bound by the 1x1 convolutions through which the student's feature maps are compared with the teacher's.
"""

from benchmarks._timing import answer, interleaved, record
from benchmarks._workspace import CLASSES, distilled, training_step, workspace
from distillation import training
from distillation.losses import DistillationLoss
from distillation.records import Records
from distillation.student import build_student


def main() -> None:
    training.set_seed(0)
    with workspace(images=2048) as params:
        train, student = Records("data/records", "train"), params.student
        model, batches, loss = distilled(params, train)
        distill = training_step(model, batches, student, loss)
        batches = training.view_batches(train, student.image_size, params.views, student)(range(student.epochs))
        scratch = training_step(build_student(student, len(CLASSES)), batches, student, DistillationLoss(len(CLASSES)))
        seconds = interleaved(distill, scratch, rounds=25, calls=8, untimed=8)
    record(distill_step_over_scratch_step=answer(__doc__, seconds[:, 0] / seconds[:, 1], "<= 1.05"))


if __name__ == "__main__":
    main()

"""How many times as long as a step from scratch does a step with the cached teacher take?

Both with their input pipelines, as `distill` and `train_scratch` run them.

Bound by the 1x1 convolutions through which the student's feature maps are compared with the teacher's.
"""

from benchmarks._timing import answer, interleaved, record
from benchmarks._workspace import distilled, scratch, training_step, workspace
from distillation.data.records import Records
from distillation.training.fit import set_seed


def main() -> None:
    set_seed(0)
    with workspace(images=2048, views=6) as params:
        train = Records("train")
        steps = [training_step(*make(params, train), params.student) for make in (distilled, scratch)]
        seconds = interleaved(*steps, rounds=25, calls=8, untimed=8)
    record(distill_step_over_scratch_step=answer(__doc__, seconds[:, 0] / seconds[:, 1], "<= 1.05"))


if __name__ == "__main__":
    main()

"""How many times as long as a step on one batch held in memory does a step with its input pipeline take?

The step of `distill`: its pipeline crops, resizes and colours the views, and looks up the teacher's
answers. Decoded images are in memory, as they are after the first epoch.

Bound by cropping, resizing and colouring; looking up the answers is a few per cent of that.
"""

import tensorflow as tf

from benchmarks._timing import answer, interleaved, record
from benchmarks._workspace import distilled, training_step, workspace
from distillation.data.records import Records
from distillation.training.fit import set_seed


def main() -> None:
    set_seed(0)
    with workspace(images=2048, views=6) as params:
        network, batches, objective = distilled(params, Records("train"))
        with_pipeline = training_step(network, batches, objective, params.student)
        one = tf.data.Dataset.from_tensors(next(iter(batches))).repeat()
        in_memory = training_step(network, one, objective, params.student)
        seconds = interleaved(with_pipeline, in_memory, rounds=25, calls=8, untimed=8)
    record(step_over_compute=answer(__doc__, seconds[:, 0] / seconds[:, 1], "<= 1.1"))


if __name__ == "__main__":
    main()

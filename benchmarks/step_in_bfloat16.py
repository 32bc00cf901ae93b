"""How much faster is the student's training step in bfloat16 than in float32?

A step of `train_scratch` with `student.precision: mixed_bfloat16`, on one batch held in memory, against one with
`float32`. `arithmetic` lists billions of operations a second of both, and of a product of two 2048 x 2048 matrices in
the same process: the share of the CPU's arithmetic that a step reaches.

Bound by the convolutions on CPUs without bfloat16 instructions, else by what moves memory or stays in float32.
"""

import numpy as np
import tensorflow as tf

from benchmarks._timing import answer, interleaved, record
from benchmarks._workspace import CLASSES, PRESET, random_batch, training_step
from distillation.networks.network import macs, select
from distillation.networks.students import build_student
from distillation.preset import complete
from distillation.training.fit import set_seed
from distillation.training.objective import Objective
from distillation.training.precision import in_precision

PRECISIONS = {"float32": tf.float32, "mixed_bfloat16": tf.bfloat16}
SIDE = 2048  # of the matrices
PASSES = 3  # of the network in a training step: forward, and the gradients by inputs and by weights


def main() -> None:
    set_seed(0)
    student = complete(PRESET).student
    network = select(build_student(student, len(CLASSES)), "logits")
    labels = tf.range(student.batch_size, dtype=tf.int64) % len(CLASSES)
    batch = {"image": random_batch(student.batch_size, student.image_size), "label": labels}
    batches = tf.data.Dataset.from_tensors(batch).repeat()
    steps = [training_step(in_precision(network, precision), batches, Objective(), student) for precision in PRECISIONS]
    products = [_product(dtype) for dtype in PRECISIONS.values()]
    step_seconds = interleaved(*steps, rounds=25, calls=8, untimed=2) / 8
    product_seconds = interleaved(*products, rounds=25, calls=4, untimed=1) / 4
    step_operations = 2 * PASSES * macs(network) * student.batch_size
    rows = []
    for column, precision in enumerate(PRECISIONS):
        step, product = (np.median(seconds[:, column]) for seconds in (step_seconds, product_seconds))
        of_step, of_product = step_operations / step / 1e9, 2 * SIDE**3 / product / 1e9
        rows.append(
            {
                "precision": precision,
                "step_ms": 1e3 * step,
                "step_gflops": of_step,
                "product_gflops": of_product,
                "share": of_step / of_product,
            }
        )
    record(step_in_bfloat16=answer(__doc__, step_seconds[:, 0] / step_seconds[:, 1], ">= 1.4"), arithmetic=rows)


def _product(dtype: tf.DType):
    matrix = tf.cast(tf.random.normal((SIDE, SIDE)), dtype)
    product = tf.function(lambda: tf.matmul(matrix, matrix))
    return lambda: product().numpy()


if __name__ == "__main__":
    main()

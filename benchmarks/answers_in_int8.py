"""How much faster does the teacher answer in int8 than in float32?

`teacher.answers: int8` against `float32`, as `cache_teacher_logits` runs them, on the same images in memory.

Bound by arithmetic: int8 gains where the CPU has int8 dot products (AVX512-VNNI, AMX, phones).
"""

import tensorflow as tf

from benchmarks._timing import answer, interleaved, record
from benchmarks._workspace import PRESET, random_batch, random_teacher
from distillation.inference.forward import BATCH, forward_pass, in_int8, to_litert
from distillation.preset import complete


def main() -> None:
    params = complete(PRESET)
    teacher, images = random_teacher(params), random_batch(2 * BATCH, params.teacher.image_size)
    sample = tf.data.Dataset.from_tensor_slices(images).batch(BATCH)
    passes = forward_pass(teacher), forward_pass(to_litert(teacher, in_int8(sample, tf.float32)))
    seconds = interleaved(*(lambda forward=forward: forward(images) for forward in passes), rounds=25, untimed=1)
    record(answers_in_int8=answer(__doc__, seconds[:, 0] / seconds[:, 1], ">= 1.5"))


if __name__ == "__main__":
    main()

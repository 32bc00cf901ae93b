"""How much faster does the teacher answer through LiteRT than through Keras?

`keras.Model.predict` against `forward_pass`, which `train_teacher`, `cache_teacher_logits`
and `evaluate` use, on the same images in memory; the answers must agree to 1e-4.

Beside the preset's teacher, which has a goal, other networks of keras.applications are listed under `teachers`, with
random weights, at 224 px: milliseconds an image.

Bound by arithmetic: LiteRT does 50 (AVX2) to 200 (AVX-512) GFLOP/s a core, as TensorFlow's plain convolutions do.
"""

import numpy as np

from benchmarks._timing import answer, interleaved, record
from benchmarks._workspace import PRESET, random_batch, random_teacher
from distillation.inference.forward import BATCH, forward_pass
from distillation.params import Params
from distillation.preset import complete

OTHERS = ("MobileNet", "MobileNetV3Small", "MobileNetV3Large", "EfficientNetB0", "EfficientNetV2B0", "ResNet50V2")


def main() -> None:
    params = complete(PRESET)
    teacher, images = random_teacher(params), random_batch(2 * BATCH, params.teacher.image_size)
    forward = forward_pass(teacher)

    def keras_predict() -> np.ndarray:
        return teacher.predict(images, batch_size=BATCH, verbose=0)["logits"]

    error = np.abs(keras_predict() - forward(images)["logits"]).max()
    if error > 1e-4:
        raise SystemExit(f"error: LiteRT and Keras differ by {error:.2g}; it should be 1e-4 at most")
    seconds = interleaved(keras_predict, lambda: forward(images), rounds=25)
    record(teacher_litert_over_keras=answer(__doc__, seconds[:, 0] / seconds[:, 1], ">= 3"))
    record(teachers=[row(params, network) for network in OTHERS])


def row(params: Params, network: str) -> dict[str, object]:
    """Medians of a few rounds of one network."""
    settings = params.teacher.model_copy(update={"network": network, "width": 1.0, "image_size": 224})
    teacher, images = random_teacher(params.model_copy(update={"teacher": settings})), random_batch(BATCH, 224)
    forward = forward_pass(teacher)
    forward(images)
    seconds = interleaved(lambda: teacher.predict_on_batch(images), lambda: forward(images), rounds=5, untimed=1)
    by_keras, by_litert = np.median(seconds, axis=0) / BATCH * 1000
    return {"network": network, "keras_ms": by_keras, "litert_ms": by_litert, "ratio": by_keras / by_litert}


if __name__ == "__main__":
    main()

"""Let the teacher answer every view of every training image once (`data/teacher_logits.npy`)."""

from pathlib import Path

import numpy as np

from distillation.console import run
from distillation.files import replacing
from distillation.inference import predict, view_images
from distillation.models import load_weights
from distillation.params import Params
from distillation.records import Records
from distillation.teacher import build_teacher

LOGITS = Path("data/teacher_logits.npy")


def main(params: Params) -> str:
    """Write raw logits, float32 (training images in id order, views, classes).

    Raw, so that neither temperature nor alpha ever asks the teacher again.
    """
    records = Records("data/records", "train")
    model = load_weights(build_teacher(params.teacher, len(records.manifest.classes)), "models/teacher.weights.h5")
    size, count = params.teacher.image_size, params.views.count
    logits = [
        predict(
            model, view_images(records, size, params.views, view), len(records), f"teacher: view {view + 1}/{count}"
        )
        for view in range(count)
    ]
    with replacing(LOGITS) as temporary:
        np.save(temporary, np.stack(logits, axis=1))
    return f"cache_teacher_logits: {count} views of {len(records):,} images -> {LOGITS}"


if __name__ == "__main__":
    run(main)

"""Do time and memory grow in line with images and views, and no faster?

Each row is measured in a process of its own. `teacher_seconds`: drawing the views as `cache_teacher_logits` does,
without the teacher's pass, whose time for each image is constant, and without writing. `student_seconds`: the input of
`distill`, one epoch for each view; the first epoch decodes the images. `peak_mib`: the peak memory of the process, of
which Python and TensorFlow take 700 MiB before the first image.
"""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from benchmarks._timing import peak_mib, record
from benchmarks._workspace import distilled, workspace
from distillation.data.records import Records
from distillation.inference.forward import predictions, view_images
from distillation.params import load_params
from distillation.training.fit import set_seed

SIZES = [(1000, 1), (4000, 1), (16000, 1), (4000, 2), (4000, 4)]  # images, views


def main() -> None:
    rows = []
    for images, views in SIZES:
        with workspace(images, views), ProcessPoolExecutor(1, get_context("spawn")) as process:
            rows.append({"images": images, "views": views, **process.submit(_measure).result()})
    record(scaling=rows)


def _measure() -> dict[str, float]:
    params = load_params()
    set_seed(0)
    train = Records("train")
    views = params.budget.views(len(train))
    start = time.perf_counter()
    images = view_images(train, params.teacher.image_size, params.views, views)
    for _ in predictions(lambda batch: {"logits": np.zeros((len(batch), 1))}, images, "scaling"):
        pass
    middle = time.perf_counter()
    _, batches, _ = distilled(params, train)
    for _ in batches.take(views * len(train) // params.student.batch_size).prefetch(4):
        pass
    end = time.perf_counter()
    return {"teacher_seconds": middle - start, "student_seconds": end - middle, "peak_mib": peak_mib()}


if __name__ == "__main__":
    main()

"""Train the student from hard labels and what the teacher answered (`data/teacher_*`)."""

from pathlib import Path

import numpy as np

from distillation.console import run
from distillation.errors import InputError, reason
from distillation.losses import DistillationLoss
from distillation.params import Params
from distillation.records import read_manifest
from distillation.student import train_student
from distillation.teacher import FEATURES


def main(params: Params) -> str:
    """Write the weights, final metrics and history of the distilled student.

    With all labels, what the loss asks is all in which this differs from `train_scratch`; unlabeled
    pictures are seen here alone.
    """
    return train_student("distill", "student_distilled", params, *teaching(params))


def teaching(params: Params) -> tuple[DistillationLoss, list[np.memmap]]:
    """The loss, and of the teacher's cached answers those that it needs."""
    distill, manifest = params.distill, read_manifest("data/records")
    views = (params.views.count, manifest.size("train"))
    soft_targets = [
        _read(Path("data/teacher_logits.npy"), (*views, len(manifest.classes))),
        *(_read(Path(f"data/teacher_features/{name}.npy"), views) for name in FEATURES),
    ]
    if distill.feature_weight == 0 or distill.alpha == 1:
        del soft_targets[1:]
    loss = DistillationLoss(len(manifest.classes), distill.alpha, distill.temperature, distill.feature_weight)
    return loss, soft_targets


def _read(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """The floats at `path`, whose shape begins with `shape`."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # never unpickles
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({reason(error)}): run `dvc repro`, which makes it") from None
    if array.dtype.kind != "f" or array.shape[: len(shape)] != shape:
        raise InputError(
            f"{path} has {array.dtype} of shape {array.shape}, should have floats of a shape beginning {shape}: "
            "run `dvc repro`"
        )
    return array


if __name__ == "__main__":
    run(main)

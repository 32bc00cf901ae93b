"""Train the student from hard labels and the teacher's cached soft labels."""

from pathlib import Path

import numpy as np

from distillation.console import run
from distillation.errors import InputError
from distillation.losses import DistillationLoss
from distillation.params import Params
from distillation.student import train_student

LOGITS = Path("data/teacher_logits.npy")


def main(params: Params) -> str:
    """Write the weights, final metrics and history of the distilled student.

    The loss is all in which this differs from `train_scratch`.
    """
    try:
        logits = np.load(LOGITS, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{LOGITS} cannot be read ({error}): run `dvc repro`") from None
    loss = DistillationLoss(params.distill.alpha, params.distill.temperature)
    return train_student("distill", "student_distilled", params, logits, loss)


if __name__ == "__main__":
    run(main)

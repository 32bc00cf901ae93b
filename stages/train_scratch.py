"""Train the student from hard labels alone: the baseline that distillation has to beat."""

from distillation.console import run
from distillation.losses import DistillationLoss
from distillation.params import Params
from distillation.records import read_manifest
from distillation.student import train_student


def main(params: Params) -> str:
    """Write the weights, final metrics and history of the student without a teacher."""
    loss = DistillationLoss(len(read_manifest("data/records").classes))
    return train_student("train_scratch", "student_scratch", params, loss)


if __name__ == "__main__":
    run(main)

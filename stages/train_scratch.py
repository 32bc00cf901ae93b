"""Train the student from hard labels alone: the baseline that distillation has to beat."""

from distillation.console import run
from distillation.params import Params
from distillation.training.objective import Objective
from distillation.training.student import train_student


def main(params: Params) -> str:
    """Write network, final metrics and history of the student without a teacher."""
    return train_student("train_scratch", "student_scratch", params, Objective())


if __name__ == "__main__":
    run(main)

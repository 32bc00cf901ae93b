"""Train the student from hard labels and the teacher's cached answers (`data/teacher_answers`)."""

from distillation.console import note, run
from distillation.data.records import read_manifest
from distillation.data.views import number_of_views
from distillation.errors import InputError
from distillation.inference.answers import Answers
from distillation.networks.network import MAPS
from distillation.params import Params
from distillation.training.objective import TERMS, Objective
from distillation.training.student import train_student


def main(params: Params) -> str:
    """Write network, final metrics and history of the distilled student.

    Where all images are labeled, only the objective differs from `train_scratch`. Unlabeled images are used here alone.
    """
    distill, manifest = params.distill, read_manifest()
    images = manifest.taught(params.budget.answered)
    answers = Answers(number_of_views(params.budget, images), images)
    if answers.shapes["logits"] != (len(manifest.classes),):
        found, wanted = answers.shapes["logits"], len(manifest.classes)
        raise InputError(f"{answers.directory} has logits of shape {found}, should be ({wanted},): run `dvc repro`")
    weights = distill.weights.model_dump()
    if set(answers.shapes) == {"logits"}:  # a teacher without feature maps
        left_out = [name for name, weight in weights.items() if weight and set(TERMS[name].reads) & set(MAPS)]
        weights |= dict.fromkeys(left_out, 0)
        if left_out:
            note(f"distill: this teacher has no feature maps: distill.weights.{', '.join(left_out)} left out")
    objective = Objective(distill.alpha, distill.temperature, weights)
    for name in objective.reads():
        if name not in answers.shapes:
            raise InputError(f"{answers.directory} has no {name}, which distill.weights asks for: run `dvc repro`")
    return train_student("distill", "student_distilled", params, objective, answers)


if __name__ == "__main__":
    run(main)

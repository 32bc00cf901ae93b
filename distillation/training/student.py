"""The training that the scratch student and the distilled one share."""

from distillation.data.records import Records
from distillation.data.views import number_of_views
from distillation.inference.answers import Answers
from distillation.networks.students import build_student, with_projections
from distillation.params import Budget, Params
from distillation.training.batches import plain_batches, view_stream
from distillation.training.fit import fit, publish, set_seed
from distillation.training.objective import Objective


def number_of_steps(budget: Budget, batch_size: int) -> int:
    """Number of batches that a student is shown."""
    return max(1, budget.shown // batch_size)


def train_student(stage: str, model: str, params: Params, objective: Objective, answers: Answers | None = None) -> str:
    """Train and publish a student; both share initial weights, data order, views, schedule and number of steps.

    Without the teacher's answers it learns from the labeled images alone, for the same number of steps. Where these are
    fewer images, it sees more views of each.

    Args:
        stage: the stage in dvc.yaml.
        model: name of the published files.
        params: all parameters.
        objective: the loss.
        answers: of the teacher, to the training images that `budget.answered` reaches.

    Returns:
        The stage's line of result.
    """
    student, validation = params.student, Records("validation")
    train = Records("train", labeled_only=answers is None, at_most=params.budget.answered)
    views, steps = number_of_views(params.budget, len(train)), number_of_steps(params.budget, student.batch_size)
    set_seed(student.seed)
    network = build_student(student, len(train.manifest.classes))
    names = objective.reads() if answers else []
    history = fit(
        stage,
        model,
        with_projections(network, {name: answers.shapes[name] for name in names if name != "logits"}),
        objective,
        view_stream(train, student.image_size, params.views, views, student, answers, names),
        plain_batches(validation, student.image_size, student.batch_size),
        steps,
        student,
        round(steps * student.warmup),
        student.precision,
    )
    return publish(stage, model, network, history)

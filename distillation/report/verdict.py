"""The meaning of `metrics/evaluate.json`, in words."""

from typing import Literal

Answer = Literal["yes", "no", "too few images"]

CLEAR = 0.05  # a p-value below this
MARGIN = 0.01  # a teacher that is better by less than this has almost nothing to teach
ADVICE = (
    "Take another teacher (teacher.network, or your own, teacher.file), let one with ImageNet weights learn from your "
    "images (teacher.fine_tune), or trust the labels more (distill.alpha)."
)


def difference(row: dict) -> str:
    """A difference of accuracies as `accuracy_difference` returns it: points, 95 % interval, p-value."""
    value, low, high = (f"{100 * row[key]:+.1f}" for key in ("accuracy", "ci_low", "ci_high"))
    p = "p < 0.001" if row["p_value"] < 0.001 else f"p = {row['p_value']:.2g}"
    return f"{value} points (95 % interval {low} to {high}, {p})"


def gain(metrics: dict) -> str:
    """One line: how much better the distilled student is than scratch, on test."""
    return f"distilled minus scratch, on test: {difference(metrics['distilled_minus_scratch'])}"


def advantage(metrics: dict) -> str:
    """One line: how much better the teacher is than scratch, on validation."""
    return f"teacher minus scratch, on validation: {difference(metrics['teacher_minus_scratch'])}"


def can_teach(metrics: dict) -> Answer:
    """Whether the teacher is better than scratch on validation.

    `yes` needs both the paired interval above zero and McNemar's test below `CLEAR`; `no` needs the whole interval
    below `MARGIN`, as in a test of non-superiority.
    """
    row = metrics["teacher_minus_scratch"]
    if row["p_value"] < CLEAR and row["ci_low"] > 0:
        return "yes"
    return "no" if row["ci_high"] < MARGIN else "too few images"


def verdict(metrics: dict) -> str:
    """Whether distillation helped, and how the teacher explains it."""
    row, teaches = metrics["distilled_minus_scratch"], can_teach(metrics)
    if row["p_value"] < CLEAR and row["ci_low"] > 0:
        found = "Distillation helped: the gain exceeds what the choice of test images explains."
        why = {
            "yes": "The teacher knows more than the labels alone teach: it is better than scratch on validation.",
            "no": f"It may help more with a better teacher: this one is no better than scratch on validation. {ADVICE}",
        }
    elif row["p_value"] < CLEAR and row["ci_high"] < 0:
        found = "Distillation hurt: the loss exceeds what the choice of test images explains."
        why = {
            "yes": "The teacher is better than scratch on validation, so the objective is to blame: try another "
            "distill.alpha or distill.temperature.",
            "no": f"The teacher is no better than scratch on validation, so it taught its mistakes. {ADVICE}",
        }
    else:
        found = "Undecided: these test images cannot tell the two students apart."
        why = {
            "yes": "The teacher is better than scratch on validation, so there is something to learn: raise "
            "budget.shown, or test on more images.",
            "no": f"The teacher is no better than scratch on validation, so it has little to teach. {ADVICE}",
        }
    unknown = "The validation images are too few to tell whether the teacher is better than scratch."
    return f"{found} {why.get(teaches, unknown)}"

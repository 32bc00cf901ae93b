"""What the report says of the numbers, and which pictures it shows."""

import numpy as np
import pandas as pd
import pytest

from distillation import figures
from stages import report


@pytest.mark.parametrize(
    ("accuracy", "low", "high", "p", "gain", "verdict"),
    [
        (0.021, 0.008, 0.034, 0.001, "+2.1 points (95 % interval +0.8 to +3.4, p = 0.001)", "Distillation helped"),
        (-0.02, -0.03, -0.01, 1e-9, "-2.0 points (95 % interval -3.0 to -1.0, p < 0.001)", "Distillation hurt"),
        (0.004, -0.003, 0.011, 0.31, "+0.4 points (95 % interval -0.3 to +1.1, p = 0.31)", "Undecided"),
        (0.01, 0.001, 0.02, 0.06, "+1.0 points (95 % interval +0.1 to +2.0, p = 0.06)", "Undecided"),
        (0.01, -0.001, 0.02, 0.04, "+1.0 points (95 % interval -0.1 to +2.0, p = 0.04)", "Undecided"),
    ],
)
def test_verdict_needs_both_the_interval_and_the_test(
    accuracy: float, low: float, high: float, p: float, gain: str, verdict: str
):
    metrics = {"distilled_minus_scratch": {"accuracy": accuracy, "ci_low": low, "ci_high": high, "p_value": p}}
    assert report._gain(metrics) == f"distilled minus scratch: {gain}"
    assert report._verdict(metrics).startswith(verdict)


def test_disagreements_are_those_of_models_first_and_then_of_the_teacher_with_the_label():
    probabilities = pd.DataFrame(
        {
            "teacher": [0.9, 0.99, 0.2, 0.5, 0.1, 0.8],
            "student_scratch": [0.9, 0.01, 0.2, 0.5, 0.9, 0.8],
            "student_distilled": [0.8, 0.99, 0.1, 0.5, 0.1, 0.8],
        }
    )
    differently, against = figures.contested(probabilities, count=2)
    assert differently.tolist() == [1, 4]
    assert against.tolist() == [2, 3]  # 4, which the teacher believes least, is shown already


def test_pictures_by_difficulty_are_easy_two_of_growing_doubt_and_hard():
    # The teacher gives these probabilities to class 0, by which 1 and 4 are labelled wrongly.
    chances = np.array([0.9, 0.97, 0.72, 0.999, 0.9999, 0.6])
    logits = np.log(np.stack([chances, 1 - chances], axis=1))
    shown = figures.by_difficulty(np.array([0, 1, 0, 0, 1, 0]), logits)
    assert list(shown.items()) == [(3, "easy"), (0, "ambiguous"), (2, "ambiguous"), (4, "hard")]


def test_balanced_takes_the_classes_in_turn():
    labels = np.array([0, 0, 0, 1, 2, 1])
    assert labels[figures.balanced(labels, 5)].tolist() == [0, 1, 2, 0, 1]
    assert sorted(figures.balanced(labels, 99)) == list(range(6))

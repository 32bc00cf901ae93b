"""Statistics against closed formulas, hand-made cases and simulations whose answer is known."""

import math
import tracemalloc

import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from scipy.stats import mannwhitneyu, norm

from distillation.report import statistics
from distillation.report.statistics import accuracy_difference, expected_calibration_error, reliability, score


def predictions(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits that are right more often than not; rounded, so that some tie."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    return labels, (rng.normal(size=(count, classes)) + 1.5 * np.eye(classes)[labels]).round(1)


def outcomes(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of two models was right, from the four counts."""
    rows = both * [(1, 1)] + first * [(1, 0)] + second * [(0, 1)] + neither * [(0, 0)]
    return tuple(np.array(rows, bool).T)


@pytest.mark.parametrize(("right", "count"), [(37, 50), (2, 9), (0, 10), (10, 10), (985, 1000)])
def test_accuracy_interval_is_wilsons(right: int, count: int):
    labels = np.arange(count) % 2
    guesses = np.where(np.arange(count) < right, labels, 1 - labels)
    scored = score(labels, 4.0 * np.eye(2)[guesses])
    p, z = right / count, norm.ppf(0.975)
    centre = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    assert scored["accuracy"] == pytest.approx(p)
    assert scored["accuracy_ci_low"] == pytest.approx(centre - half, abs=1e-9)
    assert scored["accuracy_ci_high"] == pytest.approx(centre + half, abs=1e-9)


@pytest.mark.parametrize("classes", [2, 3])
def test_nll_is_the_mean_surprise_at_the_label(classes: int):
    labels, logits = predictions(200, classes)
    expected = np.mean([logsumexp(row) - row[label] for row, label in zip(logits, labels, strict=True)])
    assert score(labels, logits.astype(np.float32))["nll"] == pytest.approx(expected, rel=1e-6)


def test_nll_of_very_sure_mistakes_is_finite():
    logits = np.float32([[1000, 0], [1000, 0]])
    assert score(np.array([0, 1]), logits)["nll"] == pytest.approx(500)


def test_roc_auc_is_the_mann_whitney_statistic():
    labels, logits = predictions(300, 2)
    probabilities = softmax(logits, axis=1)[:, 1]
    positive, negative = probabilities[labels == 1], probabilities[labels == 0]
    expected = mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative))
    assert 0.6 < expected < 0.95
    assert score(labels, logits)["roc_auc"] == pytest.approx(expected, abs=1e-9)


def test_roc_auc_of_three_classes_is_the_mean_over_one_against_the_rest():
    labels, logits = predictions(300, 3)
    probabilities = softmax(logits, axis=1)
    each = []
    for label in range(3):
        positive, negative = probabilities[labels == label, label], probabilities[labels != label, label]
        each.append(mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))
    assert score(labels, logits)["roc_auc"] == pytest.approx(np.mean(each), abs=1e-9)


def test_balanced_accuracy_is_the_mean_recall():
    labels = np.array([0] * 8 + [1] * 2 + [2] * 5)
    guesses = np.array([0] * 6 + [1] * 2 + [1, 0] + [2] * 4 + [0])
    assert score(labels, 5.0 * np.eye(3)[guesses])["balanced_accuracy"] == pytest.approx((6 / 8 + 1 / 2 + 4 / 5) / 3)


@pytest.mark.filterwarnings("error")
def test_a_class_without_an_image_does_not_count():
    labels, logits = predictions(300, 3)
    more = np.concatenate([logits, np.full((300, 1), -50.0)], axis=1)
    found, expected = score(labels, more), score(labels, logits)
    assert found == pytest.approx(expected, abs=1e-9)


def test_three_classes_are_scored_by_the_largest_logit():
    labels = np.array([0, 1, 2, 2])
    logits = np.float32([[2, 1, 0], [2, 1, 0], [0, 1, 2], [0, 1, 2]])
    assert score(labels, logits)["accuracy"] == 0.75


def test_calibration_error_of_a_case_worked_out_by_hand():
    # Four predictions at 0.9, three of them right; six at 0.62, three of them right; two sure ones, both right.
    confidence = np.array(4 * [0.9] + 6 * [0.62] + 2 * [1.0])
    labels = np.array([1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 1])
    probabilities = np.stack([1 - confidence, confidence], axis=1)
    expected = (4 * abs(0.9 - 3 / 4) + 6 * abs(0.62 - 3 / 6) + 0) / 12
    assert expected_calibration_error(labels, probabilities) == pytest.approx(expected)
    rows = reliability(labels, probabilities)
    assert [row["confidence"] for row in rows] == pytest.approx([0.62, 0.9, 1.0])
    assert [row["accuracy"] for row in rows] == pytest.approx([0.5, 0.75, 1.0])
    assert [row["share"] for row in rows] == pytest.approx([6 / 12, 4 / 12, 2 / 12])


def test_calibration_error_of_a_sure_and_always_wrong_model_is_one():
    assert expected_calibration_error(np.array([0, 0]), np.float64([[0, 1], [0, 1]])) == 1


@pytest.mark.parametrize("classes", [2, 3])
def test_calibrated_predictions_have_a_small_error_and_overconfident_ones_a_large_one(classes: int):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (20_000, classes))
    labels = np.array([rng.choice(classes, p=row) for row in softmax(logits, axis=1)])
    assert score(labels, logits)["ece"] < 0.015
    assert score(labels, 3 * logits)["ece"] > 0.08
    assert score(labels, logits / 3)["ece"] > 0.08


@pytest.mark.parametrize(("won", "lost"), [(9, 3), (3, 9), (5, 5), (1, 0), (14, 2)])
def test_p_value_is_mcnemars_exact_one(won: int, lost: int):
    tail = sum(math.comb(won + lost, k) for k in range(min(won, lost) + 1)) / 2 ** (won + lost)
    difference = accuracy_difference(*outcomes(20, won, lost, 4))
    assert difference["p_value"] == pytest.approx(min(1, 2 * tail))
    assert difference["accuracy"] == pytest.approx((won - lost) / (won + lost + 24))


def test_bootstrap_interval_agrees_with_the_normal_approximation_on_a_large_sample():
    first, second = outcomes(2600, 220, 140, 240)
    difference = first.astype(float) - second
    centre, half = difference.mean(), 1.96 * difference.std() / math.sqrt(len(difference))
    found = accuracy_difference(first, second)
    assert found["ci_low"] == pytest.approx(centre - half, abs=half / 20)
    assert found["ci_high"] == pytest.approx(centre + half, abs=half / 20)


def test_difference_is_paired():
    """Two models that differ on a few images only: the interval is far narrower than that of unpaired models."""
    found = accuracy_difference(*outcomes(700, 20, 10, 270))
    unpaired = 1.96 * math.sqrt(2 * 0.72 * 0.28 / 1000)
    assert found["ci_high"] - found["ci_low"] < 0.6 * 2 * unpaired


@pytest.mark.parametrize("at_once", [1, 10_000, 10**9])
def test_interval_does_not_depend_on_how_many_are_resampled_at_once(monkeypatch: pytest.MonkeyPatch, at_once: int):
    expected = accuracy_difference(*outcomes(20, 9, 3, 4))
    monkeypatch.setattr(statistics, "RESAMPLED_AT_ONCE", at_once)
    assert accuracy_difference(*outcomes(20, 9, 3, 4)) == expected


def test_memory_for_the_interval_does_not_grow_with_the_images():
    first, second = outcomes(5_500, 3_500, 600, 400)  # all resamples at once would take 2 GB
    tracemalloc.start()
    accuracy_difference(first, second)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6


def test_difference_turns_its_sign_with_the_models():
    first, second = outcomes(20, 9, 3, 4)
    forth, back = accuracy_difference(first, second), accuracy_difference(second, first)
    assert back["accuracy"] == -forth["accuracy"]
    assert back["p_value"] == forth["p_value"]
    assert back["ci_low"] == pytest.approx(-forth["ci_high"], abs=0.03)


@pytest.mark.parametrize("count", [4, 30, 1000])
def test_models_that_are_always_right_may_still_differ_elsewhere(count: int):
    """The interval is as wide as Wilson's of one model."""
    right = np.ones(count, bool)
    wide = norm.ppf(0.975) ** 2 / (count + norm.ppf(0.975) ** 2)
    found = accuracy_difference(right, right)
    assert (found["accuracy"], found["p_value"]) == (0, 1)
    assert [found["ci_low"], found["ci_high"]] == pytest.approx([-wide, wide])


def test_models_that_are_equal_on_many_images_differ_little():
    """Both are wrong on the same fifth: much less than Wilson's of one model."""
    found = accuracy_difference(*outcomes(800, 0, 0, 200))
    assert 0 < found["ci_high"] == -found["ci_low"] < 0.005


def test_interval_where_one_model_is_nowhere_right_alone_is_newcombes():
    """Altman et al., "Statistics with confidence", 2000, table 6.2; Newcombe, 1998, table II."""
    found = accuracy_difference(*outcomes(14, 5, 0, 22))
    assert [found["ci_low"], found["ci_high"]] == pytest.approx([0.011, 0.226], abs=5e-4)
    assert statistics._newcombe(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_difference_is_the_same_every_time():
    assert accuracy_difference(*outcomes(20, 9, 3, 4)) == accuracy_difference(*outcomes(20, 9, 3, 4))

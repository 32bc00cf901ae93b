"""The distillation loss against closed forms, and against SciPy in double precision."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from distillation.losses import (
    DistillationLoss,
    LabeledMean,
    accuracy,
    cross_entropy,
    distillation_loss,
    hard_labels,
)
from distillation.records import UNLABELED


def reference(
    labels: np.ndarray, student: np.ndarray, teacher: np.ndarray, alpha: float, temperature: float
) -> np.ndarray:
    """The loss's definition, in float64."""
    student, teacher = student.astype(np.float64), teacher.astype(np.float64)
    hard = -log_softmax(student, axis=1)[np.arange(len(labels)), labels]
    soft = entropy(softmax(teacher / temperature, axis=1), softmax(student / temperature, axis=1), axis=1)
    return alpha * hard + (1 - alpha) * temperature**2 * soft


def random_logits(classes: int, batch: int = 7, scale: float = 3, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Labels, the student's and the teacher's logits."""
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(0, scale, (2, batch, classes)).astype(np.float32)
    return rng.integers(0, classes, batch), student, teacher


def soft_gradient(student: np.ndarray, teacher: np.ndarray, temperature: float) -> np.ndarray:
    """d/dz_s of the teacher's part of the loss."""
    logits = tf.Variable(student)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(distillation_loss(np.zeros(len(student), int), logits, teacher, 0.0, temperature))
    return tape.gradient(loss, logits).numpy()


def packed(labels: np.ndarray, *answers: np.ndarray) -> np.ndarray:
    return np.concatenate([labels[:, None], *answers], axis=1).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("temperature", [0.5, 1, 4, 20])
@pytest.mark.parametrize("alpha", [0, 0.3, 1])
def test_loss_equals_its_definition(alpha: float, temperature: float, classes: int):
    labels, student, teacher = random_logits(classes)
    loss = distillation_loss(labels, student, teacher, alpha, temperature)
    assert loss.shape == labels.shape
    np.testing.assert_allclose(loss, reference(labels, student, teacher, alpha, temperature), rtol=2e-4, atol=2e-5)


def test_published_value_of_a_teacher_twice_as_sure_as_its_student():
    # Of two classes, KL is that of two coins with odds exp((8 + 8) / 4) and exp((4 + 4) / 4).
    p, q = (1 / (1 + math.exp(-difference / 4)) for difference in (16, 8))
    closed_form = 16 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    loss = distillation_loss(np.array([0]), np.float32([[4, -4]]), np.float32([[8, -8]]), 0.0, 4.0)
    assert closed_form == pytest.approx(1.1649, abs=5e-5)
    assert float(loss[0]) == pytest.approx(closed_form, abs=1e-5)


def test_student_that_knows_nothing_pays_log_classes_and_the_teachers_missing_entropy():
    labels, _, teacher = random_logits(5)
    student = np.zeros_like(teacher)
    hard = distillation_loss(labels, student, teacher, 1.0, 3.0)
    soft = distillation_loss(labels, student, teacher, 0.0, 3.0)
    missing = math.log(5) - entropy(softmax(teacher.astype(np.float64) / 3, axis=1), axis=1)
    np.testing.assert_allclose(hard, np.full(len(labels), math.log(5)), rtol=1e-6)
    np.testing.assert_allclose(soft, 9 * missing, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_term_vanishes_when_the_student_equals_the_teacher(temperature: float):
    labels, student, _ = random_logits(5)
    shifted = student + np.float32(2)  # softmax does not see a constant
    np.testing.assert_allclose(distillation_loss(labels, student, shifted, 0.0, temperature), 0, atol=2e-5)
    np.testing.assert_allclose(soft_gradient(student, shifted, temperature), 0, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("temperature", [1.0, 2.5, 8.0])
def test_gradient_of_the_soft_term_is_t_times_the_difference_of_probabilities(classes: int, temperature: float):
    _, student, teacher = random_logits(classes)
    p_student, p_teacher = (softmax(logits.astype(np.float64) / temperature, axis=1) for logits in (student, teacher))
    expected = temperature * (p_student - p_teacher)
    np.testing.assert_allclose(soft_gradient(student, teacher, temperature), expected, rtol=1e-3, atol=1e-5)


def test_gradient_keeps_its_size_as_the_temperature_grows():
    _, student, teacher = random_logits(5, scale=1)
    norms = [np.linalg.norm(soft_gradient(student, teacher, temperature)) for temperature in (1.0, 3.0, 10.0, 30.0)]
    assert max(norms) < 3 * min(norms)  # without T^2 the last would be 900 times smaller


def test_gradient_tends_to_matching_logits_at_high_temperature():
    """Hinton et al. (2015), section 2.1: (z_s - z_t) / classes for logits of zero mean."""
    _, student, teacher = random_logits(5, scale=1)
    centred = [logits - logits.mean(axis=1, keepdims=True) for logits in (student, teacher)]
    np.testing.assert_allclose(soft_gradient(student, teacher, 200.0), (centred[0] - centred[1]) / 5, atol=0.01)


def test_packed_rows_give_the_formula_on_their_slices():
    labels, student, teacher = random_logits(3)
    rows = packed(labels, teacher)
    loss = DistillationLoss(3, alpha=0.2, temperature=2.0)
    expected = reference(labels, student, teacher, 0.2, 2.0)
    np.testing.assert_allclose(loss.call(rows, student), expected, rtol=1e-4)
    assert float(loss(rows, student)) == pytest.approx(expected.mean(), rel=1e-4)


def test_rows_of_labels_alone_give_the_cross_entropy():
    labels, student, _ = random_logits(3)
    loss = DistillationLoss(3, alpha=0.2, temperature=2.0, feature_weight=7.0)
    expected = -log_softmax(student.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    np.testing.assert_allclose(loss.call(packed(labels), student), expected, rtol=1e-5)
    features = np.ones((len(labels), 4), np.float32)
    np.testing.assert_allclose(loss.call(packed(labels), np.hstack([student, features])), expected, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("feature_weight", [0.0, 5.0])
@pytest.mark.parametrize(("epoch", "left"), [(0, 1.0), (3, 0.7), (9, 0.1)])
def test_features_add_their_mean_squared_distance_by_the_teachers_share(
    alpha: float, feature_weight: float, epoch: int, left: float
):
    labels, student, teacher = random_logits(3)
    rng = np.random.default_rng(1)
    mine, theirs = rng.normal(size=(2, len(labels), 4)).astype(np.float32)
    loss = DistillationLoss(3, alpha, 2.0, feature_weight)
    loss.fade_hint(epoch, 10)
    distance = ((mine.astype(np.float64) - theirs) ** 2).sum(axis=1) / 4
    expected = reference(labels, student, teacher, alpha, 2.0) + (1 - alpha) * feature_weight * left * distance
    outputs = np.hstack([student, mine])
    np.testing.assert_allclose(loss.call(packed(labels, teacher, theirs), outputs), expected, rtol=1e-4)


def test_without_a_label_only_the_teacher_counts():
    labels, student, teacher = random_logits(3)
    hidden = np.where(np.arange(len(labels)) % 2, UNLABELED, labels)
    known = hidden != UNLABELED
    loss = distillation_loss(hidden, student, teacher, 0.3, 2.0)
    expected = reference(labels, student, teacher, 0.3, 2.0)
    np.testing.assert_allclose(loss[known], expected[known], rtol=1e-4)
    soft = 0.7 * reference(labels, student, teacher, 0.0, 2.0)
    np.testing.assert_allclose(loss[~known], soft[~known], rtol=1e-4, atol=1e-6)


def test_metrics_are_means_over_what_is_labeled():
    labels, logits, _ = random_logits(3)
    hidden = np.where(np.arange(len(labels)) % 2, UNLABELED, labels)
    known = hidden != UNLABELED
    for metric, values in (
        (accuracy, logits.argmax(axis=1) == labels),
        (cross_entropy, -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]),
    ):
        mean = LabeledMean(metric, classes=3)
        for half in (slice(0, 3), slice(3, None)):
            mean.update_state(packed(hidden[half]), logits[half])
        assert float(mean.result()) == pytest.approx(values[known].mean(), rel=1e-5)


def test_alpha_one_ignores_the_teacher_to_the_last_bit():
    labels, student, teacher = random_logits(3)
    rng = np.random.default_rng(1)
    features = rng.normal(size=(2, len(labels), 4)).astype(np.float32)
    scratch = DistillationLoss(3).call(packed(labels), student).numpy()
    distilled = DistillationLoss(3, 1.0, 4.0, 5.0)
    for answer in (teacher, -10 * teacher):
        rows = packed(labels, answer, features[0])
        assert np.array_equal(distilled.call(rows, np.hstack([student, features[1]])), scratch)


def test_metrics_read_the_label_and_the_logits_out_of_packed_rows():
    labels = np.array([2, 0, 1])
    logits = np.float32([[0, 1, 2], [0, 1, 2], [0, 2, 1]])
    rows, outputs = packed(labels, logits[::-1]), np.hstack([logits, np.full((3, 2), 9, np.float32)])
    assert hard_labels(rows).numpy().tolist() == [2, 0, 1]
    assert accuracy(rows, outputs, 3).numpy().tolist() == [1, 0, 1]
    expected = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(3), labels]
    np.testing.assert_allclose(cross_entropy(rows, outputs, 3), expected, rtol=1e-5)


@settings(max_examples=60)
@given(
    st.integers(2, 5).flatmap(
        lambda classes: arrays(np.float32, (2, 3, classes), elements=st.floats(-1e3, 1e3, width=32))
    ),
    st.floats(0, 1),
    st.floats(0.5, 20),
)
def test_loss_is_finite_and_not_negative_for_large_logits(logits: np.ndarray, alpha: float, temperature: float):
    student, teacher = logits
    labels = np.zeros(len(student), int)
    loss = distillation_loss(labels, student, teacher, alpha, temperature).numpy()
    assert np.isfinite(loss).all()
    # KL is a sum of terms of either sign, so that float32 leaves it a few units of rounding below zero.
    rounding = 4 * np.finfo(np.float32).eps * (1 + np.abs(logits).max() / temperature)
    assert (loss >= -(temperature**2) * rounding).all()
    # Not `reference`: probabilities that underflow would make its KL infinite.
    log_p, log_q = (log_softmax(z.astype(np.float64) / temperature, axis=1) for z in (teacher, student))
    hard = -log_softmax(student.astype(np.float64), axis=1)[:, 0]
    expected = alpha * hard + (1 - alpha) * temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    np.testing.assert_allclose(loss, expected, rtol=1e-3, atol=4 * temperature**2 * rounding)

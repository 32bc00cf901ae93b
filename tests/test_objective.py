"""The objective against closed forms, and against SciPy in double precision."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from distillation.data.splits import UNLABELED
from distillation.networks.network import MAPS
from distillation.params import Weights
from distillation.training.objective import TERMS, Objective, Term, features, hard, soft

SHAPES = {"middle_map": (4, 4, 2), "last_map": (2, 2, 3)}
UNFADED = tf.constant(1.0)


def hard_reference(labels: np.ndarray, student: np.ndarray) -> np.ndarray:
    """The cross-entropy's definition, in float64."""
    return -log_softmax(student.astype(np.float64), axis=1)[np.arange(len(labels)), labels]


def soft_reference(teacher: np.ndarray, student: np.ndarray, temperature: float) -> np.ndarray:
    """The divergence's definition, in float64."""
    p, q = (softmax(logits.astype(np.float64) / temperature, axis=1) for logits in (teacher, student))
    return temperature**2 * entropy(p, q, axis=1)


def random_logits(classes: int, batch: int = 7, scale: float = 3, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Labels, the student's and the teacher's logits."""
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(0, scale, (2, batch, classes)).astype(np.float32)
    return rng.integers(0, classes, batch), student, teacher


def random_maps(batch: int = 7, seed: int = 1) -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(seed)
    return {name: tf.constant(rng.normal(size=(batch, *shape)).astype(np.float32)) for name, shape in SHAPES.items()}


def distances(teacher: dict[str, tf.Tensor], student: dict[str, tf.Tensor]) -> np.ndarray:
    """For each example, the mean square over the values of both maps, in float64."""
    rows = []
    for number in range(len(teacher["last_map"])):
        mine, theirs = (np.concatenate([np.ravel(maps[name][number]) for name in MAPS]) for maps in (student, teacher))
        rows.append(np.mean((mine.astype(np.float64) - theirs) ** 2))
    return np.array(rows)


def soft_gradient(student: np.ndarray, teacher: np.ndarray, temperature: float) -> np.ndarray:
    """d/dz_s of the divergence from the teacher."""
    logits = tf.Variable(student)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(soft(teacher, logits, temperature))
    return tape.gradient(loss, logits).numpy()


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("temperature", [0.5, 1, 4, 20])
@pytest.mark.parametrize("alpha", [0, 0.3, 1])
def test_objective_equals_its_definition(alpha: float, temperature: float, classes: int):
    labels, student, teacher = random_logits(classes)
    assert hard(labels, student).shape == soft(teacher, student, temperature).shape == labels.shape
    np.testing.assert_allclose(hard(labels, student), hard_reference(labels, student), rtol=2e-4, atol=2e-5)
    expected = soft_reference(teacher, student, temperature)
    np.testing.assert_allclose(soft(teacher, student, temperature), expected, rtol=2e-4, atol=2e-5)
    batch = {"label": labels, "teacher": {"logits": teacher}}
    terms = Objective(alpha, temperature)(batch, {"logits": student}, UNFADED)
    assert all(value.shape == () for value in terms.values())
    assert float(terms["hard"]) == pytest.approx(alpha * hard_reference(labels, student).mean(), rel=2e-4)
    assert float(sum(terms.values())) == pytest.approx(
        (alpha * hard_reference(labels, student) + (1 - alpha) * expected).mean(), rel=2e-4
    )


def test_published_value_of_a_teacher_twice_as_sure_as_its_student():
    # Of two classes, KL is that of two coins with odds exp((8 + 8) / 4) and exp((4 + 4) / 4).
    p, q = (1 / (1 + math.exp(-difference / 4)) for difference in (16, 8))
    closed_form = 16 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    divergence = soft(np.float32([[8, -8]]), np.float32([[4, -4]]), 4.0)
    assert closed_form == pytest.approx(1.1649, abs=5e-5)
    assert float(divergence[0]) == pytest.approx(closed_form, abs=1e-5)


def test_student_that_knows_nothing_pays_log_classes_and_the_teachers_missing_entropy():
    labels, _, teacher = random_logits(5)
    student = np.zeros_like(teacher)
    missing = math.log(5) - entropy(softmax(teacher.astype(np.float64) / 3, axis=1), axis=1)
    np.testing.assert_allclose(hard(labels, student), np.full(len(labels), math.log(5)), rtol=1e-6)
    np.testing.assert_allclose(soft(teacher, student, 3.0), 9 * missing, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_term_vanishes_when_the_student_equals_the_teacher(temperature: float):
    _, student, _ = random_logits(5)
    shifted = student + np.float32(2)  # softmax does not see a constant
    np.testing.assert_allclose(soft(shifted, student, temperature), 0, atol=2e-5)
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


def test_features_are_the_mean_squared_distance_over_the_values_of_both_maps():
    teacher, student = random_maps(), random_maps(seed=2)
    found = features(teacher, student)
    assert found.shape == (7,)
    np.testing.assert_allclose(found, distances(teacher, student), rtol=1e-5)
    # One value of the larger map weighs as much as one of the smaller.
    for name in MAPS:
        height, width, channels = SHAPES[name]
        moved = teacher | {name: teacher[name] + np.eye(1, channels, dtype=np.float32)[0] * 3}
        np.testing.assert_allclose(features(teacher, moved), 9 * height * width / (32 + 12), rtol=1e-5)


def test_from_scratch_it_is_the_cross_entropy_alone():
    labels, student, _ = random_logits(3)
    for outputs in ({"logits": student}, {"logits": student, **random_maps()}):
        terms = Objective()({"label": labels}, outputs, UNFADED)
        assert list(terms) == ["hard"]
        assert float(terms["hard"]) == pytest.approx(hard_reference(labels, student).mean(), rel=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("weight", [0.0, 5.0])
@pytest.mark.parametrize("fade", [1.0, 0.7, 0.1, 0.0])
def test_features_count_by_the_teachers_share_their_weight_and_what_is_left_of_them(
    alpha: float, weight: float, fade: float
):
    labels, student, teacher = random_logits(3)
    mine, theirs = random_maps(), random_maps(seed=2)
    batch = {"label": labels, "teacher": {"logits": teacher, **theirs}}
    terms = Objective(alpha, 2.0, {"features": weight})(batch, {"logits": student, **mine}, tf.constant(fade))
    expected = {"hard": alpha * hard_reference(labels, student).mean()}
    if alpha < 1:
        expected["soft"] = (1 - alpha) * soft_reference(teacher, student, 2.0).mean()
        if weight:
            expected["features"] = (1 - alpha) * weight * fade * distances(theirs, mine).mean()
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("alpha", "weight", "names"),
    [(0.1, 0, ["logits"]), (0.1, 5, ["logits", *MAPS]), (0, 0, ["logits"]), (1, 5, []), (1, 0, [])],
)
def test_it_reads_of_the_teacher_only_what_its_terms_compare(alpha: float, weight: float, names: Sequence[str]):
    labels, student, teacher = random_logits(3)
    chosen = Objective(alpha, 2.0, {"features": weight})
    assert chosen.reads() == names
    answers = {"logits": teacher, **random_maps()}
    batch = {"label": labels, "teacher": {name: answers[name] for name in names}}
    outputs = {name: ({"logits": student} | random_maps(seed=2))[name] for name in {"logits", *names}}
    assert set(chosen(batch, outputs, UNFADED)) <= set(chosen.names)


def test_every_term_has_a_weight_among_the_parameters_and_a_name_in_the_history():
    assert set(TERMS) == set(Weights.model_fields)
    assert Objective.names == ("hard", "soft", *TERMS)


def test_another_term_is_one_entry_of_the_table(monkeypatch: pytest.MonkeyPatch):
    labels, student, teacher = random_logits(3)
    monkeypatch.setitem(
        TERMS, "close", Term(lambda t, s: tf.reduce_sum(abs(t["logits"] - s["logits"]), axis=1), reads=("logits",))
    )
    chosen = Objective(0.2, 2.0, {"features": 0, "close": 3.0})
    assert chosen.reads() == ["logits"]
    terms = chosen({"label": labels, "teacher": {"logits": teacher}}, {"logits": student}, tf.constant(0.5))
    assert list(terms) == ["hard", "soft", "close"]
    assert float(terms["close"]) == pytest.approx(0.8 * 3 * 0.5 * abs(teacher - student).sum(axis=1).mean(), rel=1e-5)


def test_mixed_image_has_a_share_of_each_label():
    labels, student, teacher = random_logits(4)
    of_partners = np.roll(labels, 1)
    of_partners[0] = UNLABELED
    shares = np.linspace(0, 0.5, len(labels), dtype=np.float32)
    batch = {"label": labels, "partner_label": of_partners, "partner_share": shares, "teacher": {"logits": teacher}}
    terms = Objective(0.3, 2.0)(batch, {"logits": student}, UNFADED)
    known = of_partners != UNLABELED
    log_probabilities = log_softmax(student.astype(np.float64), axis=1)
    truth = (1 - shares)[:, None] * np.eye(4)[labels] + (shares * known)[:, None] * np.eye(4)[of_partners]
    assert float(terms["hard"]) == pytest.approx(0.3 * -(truth * log_probabilities).sum(axis=1).mean(), rel=1e-4)
    assert float(terms["soft"]) == pytest.approx(0.7 * soft_reference(teacher, student, 2.0).mean(), rel=1e-4)


def test_without_a_label_only_the_teacher_counts():
    labels, student, teacher = random_logits(3)
    hidden = np.where(np.arange(len(labels)) % 2, UNLABELED, labels)
    known = hidden != UNLABELED
    found = hard(hidden, student).numpy()
    np.testing.assert_allclose(found[known], hard_reference(labels, student)[known], rtol=1e-4)
    assert np.array_equal(found[~known], np.zeros(3))
    batch = {"label": hidden, "teacher": {"logits": teacher}}
    total = float(sum(Objective(0.3, 2.0)(batch, {"logits": student}, UNFADED).values()))
    expected = 0.3 * known * hard_reference(labels, student) + 0.7 * soft_reference(teacher, student, 2.0)
    assert total == pytest.approx(expected.mean(), rel=1e-4)


def test_without_a_label_the_cross_entropy_has_no_gradient():
    labels, student, _ = random_logits(3)
    hidden, logits = np.where(np.arange(len(labels)) % 2, UNLABELED, labels), tf.Variable(1e4 * student)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(hard(hidden, logits))
    gradient = tape.gradient(loss, logits).numpy()
    assert np.isfinite(gradient).all()
    assert not gradient[hidden == UNLABELED].any()
    expected = softmax(1e4 * student.astype(np.float64), axis=1) - np.eye(3)[labels]
    np.testing.assert_allclose(gradient[hidden != UNLABELED], expected[hidden != UNLABELED], atol=1e-5)


def test_alpha_one_ignores_the_teacher_to_the_last_bit():
    labels, student, teacher = random_logits(3)
    outputs = {"logits": student, **random_maps()}
    scratch = Objective()({"label": labels}, outputs, UNFADED)
    for answer in (teacher, -10 * teacher):
        batch = {"label": labels, "teacher": {"logits": answer, **random_maps(seed=2)}}
        distilled = Objective(1.0, 4.0, {"features": 5.0})(batch, outputs, UNFADED)
        assert list(distilled) == ["hard"]
        assert float(distilled["hard"]) == float(scratch["hard"])


@settings(max_examples=60)
@given(
    st.integers(2, 5).flatmap(
        lambda classes: arrays(np.float32, (2, 3, classes), elements=st.floats(-1e3, 1e3, width=32))
    ),
    st.floats(0, 1),
    st.floats(0.5, 20),
)
def test_objective_is_finite_and_not_negative_for_large_logits(logits: np.ndarray, alpha: float, temperature: float):
    student, teacher = logits
    labels = np.zeros(len(student), int)
    parts = hard(labels, student).numpy(), soft(teacher, student, temperature).numpy()
    loss = alpha * parts[0] + (1 - alpha) * parts[1]
    assert np.isfinite(loss).all()
    # KL is a sum of terms of either sign, so that float32 leaves it a few units of rounding below zero.
    rounding = 4 * np.finfo(np.float32).eps * (1 + np.abs(logits).max() / temperature)
    assert (loss >= -(temperature**2) * rounding).all()
    # Not `soft_reference`: probabilities that underflow would make its KL infinite.
    log_p, log_q = (log_softmax(z.astype(np.float64) / temperature, axis=1) for z in (teacher, student))
    expected = temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    expected = alpha * hard_reference(labels, student) + (1 - alpha) * expected
    np.testing.assert_allclose(loss, expected, rtol=1e-3, atol=4 * temperature**2 * rounding)
    batch = {"label": labels, "teacher": {"logits": teacher}}
    total = float(sum(Objective(alpha, temperature)(batch, {"logits": student}, UNFADED).values()))
    assert total == pytest.approx(expected.mean(), rel=1e-3, abs=float(4 * temperature**2 * rounding))

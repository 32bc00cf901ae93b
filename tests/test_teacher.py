"""How the teacher learns: the solved head."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from distillation.training.head import DECAYS, STOP, cross_entropy, solve_head

FEATURES = 12


def examples(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features that differ in scale and overlap between classes, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(99).normal(size=(classes, FEATURES))
    scales = np.geomspace(0.01, 100, FEATURES)
    return ((rng.normal(size=(count, FEATURES)) + centres[labels]) * scales + scales).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_head_is_the_one_of_scikit_learn(classes: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(STOP, "gtol", 1e-7)
    features, labels = examples(400, classes)
    held_out, held_out_labels = examples(200, classes, seed=1)
    head = solve_head(features, labels, held_out, held_out_labels, classes)
    scaler = StandardScaler().fit(features.astype(np.float64))

    def theirs(decay: float) -> np.ndarray:
        # Of two classes they have one vector of coefficients: the difference of ours, which weighs half as much.
        strength = decay * len(labels) / (2 if classes == 2 else 1)
        model = LogisticRegression(C=1 / strength, tol=1e-9, max_iter=10_000)
        model.fit(scaler.transform(features.astype(np.float64)), labels)
        return model.predict_proba(scaler.transform(held_out.astype(np.float64)))

    np.testing.assert_allclose(softmax(head.logits(held_out), axis=1), theirs(head.decay), atol=2e-4)
    losses = [-np.log(theirs(decay))[np.arange(200), held_out_labels].mean() for decay in DECAYS]
    assert head.decay == DECAYS[int(np.argmin(losses))]  # here the loss has one minimum


def test_gradient_of_the_head_is_zero():
    features, labels = examples(300, 4)
    head = solve_head(features, labels, *examples(100, 4, seed=1), classes=4)
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    error = softmax(features.astype(np.float64) @ head.kernel + head.bias, axis=1) - np.eye(4)[labels]
    gradient = ((features - mean) / deviation).T @ error / len(labels) + head.decay * head.kernel * deviation[:, None]
    assert np.abs(gradient).max() < 2e-4
    assert np.abs(error.mean(axis=0)).max() < 2e-4


def test_head_does_not_depend_on_scale_and_shift_of_the_features():
    (features, labels), (held_out, held_out_labels) = examples(300, 3), examples(100, 3, seed=1)
    heads = [
        solve_head(factor * features + 3, labels, factor * held_out + 3, held_out_labels, 3) for factor in (1, 1 / 8)
    ]
    one, other = heads[0].logits(held_out + 3), heads[1].logits(held_out / 8 + 3)
    np.testing.assert_allclose(log_softmax(one, axis=1), log_softmax(other, axis=1), atol=1e-2)


def test_head_is_the_same_to_the_byte_every_time():
    one, other = (solve_head(*examples(300, 3), *examples(100, 3, seed=1), classes=3) for _ in range(2))
    assert one.kernel.tobytes() == other.kernel.tobytes()
    assert one.bias.tobytes() == other.bias.tobytes()
    assert one.kernel.dtype == one.bias.dtype == np.float32


def test_feature_that_never_varies_and_class_without_images_do_no_harm():
    (features, labels), (held_out, held_out_labels) = examples(300, 3), examples(100, 3, seed=1)
    features[:, 0] = held_out[:, 0] = 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head = solve_head(features, labels, held_out, held_out_labels, 4)
    assert head.score("validation", held_out, held_out_labels)["validation_accuracy"] > 0.8
    assert softmax(head.logits(held_out), axis=1)[:, 3].max() < 1e-2
    assert np.abs(head.kernel[0]).max() < 1e-6


def test_features_that_tell_nothing_give_the_shares_of_the_classes():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(4000, 3)).astype(np.float32), np.arange(4000) % 4 // 3  # three to one
    head = solve_head(features, labels, rng.normal(size=(4000, 3)).astype(np.float32), labels, 2)
    assert head.decay == DECAYS[0]
    np.testing.assert_allclose(softmax(head.bias), [0.75, 0.25], atol=0.01)
    assert head.score("train", features, labels)["train_accuracy"] == 0.75
    assert head.score("train", features, labels)["train_loss"] == pytest.approx(0.5623, abs=2e-3)  # nats


def test_logits_of_a_dense_layer_are_those_of_the_head():
    features, labels = examples(60, 3)
    head = solve_head(features, labels, features, labels, 3)
    dense = layers.Dense(3)
    network = keras.Sequential([keras.Input((FEATURES,)), dense])
    dense.set_weights([head.kernel, head.bias])
    logits = network.predict(features, verbose=0)
    np.testing.assert_allclose(logits, head.logits(features), rtol=1e-4, atol=1e-4)
    assert head.score("train", features, labels)["train_loss"] == pytest.approx(cross_entropy(logits, labels), abs=1e-4)

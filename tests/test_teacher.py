"""How the teacher learns: its head is solved, its backbone fine-tuned where validation gains by it."""

import itertools
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import changed
from hypothesis import given
from hypothesis import strategies as st
from keras import layers
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from distillation.data import views as viewing
from distillation.data.records import Records
from distillation.files import read_json
from distillation.inference.forward import plain_images
from distillation.networks.network import load_network
from distillation.networks.teachers import HEAD
from distillation.params import Params, Teacher
from distillation.training import checkpoint
from distillation.training import fit as fitting
from distillation.training import teacher as training_teacher
from distillation.training.head import DECAYS, STOP, cross_entropy, scores, solve_head
from distillation.training.teacher import RARE, better, fine_tune, sample
from stages import train_teacher

FEATURES = 12


def examples(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features that differ in scale and overlap between classes, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(99).normal(size=(classes, FEATURES))
    scales = np.geomspace(0.5, 4, FEATURES)
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
    assert scores("validation", head.logits(held_out), held_out_labels)["validation_accuracy"] > 0.8
    assert softmax(head.logits(held_out), axis=1)[:, 3].max() < 1e-2
    assert np.abs(head.kernel[0]).max() < 1e-6


def test_feature_that_almost_never_fires_leaves_the_head_fit_for_int8():
    """Of 8 bits, the largest weight of a class takes all; here a feature gives three images of one class away."""
    (features, labels), (held_out, held_out_labels) = examples(3000, 3), examples(1000, 3, seed=1)
    features[:, 0] = held_out[:, 0] = 0
    features[:9:3, 0] = 1e-3  # images of class 0
    head = solve_head(features, labels, held_out, held_out_labels, 3)
    step = np.abs(head.kernel).max(axis=0) / 127
    in_int8 = held_out @ (step * np.round(head.kernel / step)) + head.bias
    assert np.mean(in_int8.argmax(axis=1) == head.logits(held_out).argmax(axis=1)) > 0.99


def test_features_that_tell_nothing_give_the_shares_of_the_classes():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(4000, 3)).astype(np.float32), np.arange(4000) % 4 // 3  # three to one
    head = solve_head(features, labels, rng.normal(size=(4000, 3)).astype(np.float32), labels, 2)
    assert head.decay == DECAYS[0]
    np.testing.assert_allclose(softmax(head.bias), [0.75, 0.25], atol=0.01)
    assert scores("train", head.logits(features), labels)["train_accuracy"] == 0.75
    assert scores("train", head.logits(features), labels)["train_loss"] == pytest.approx(0.5623, abs=2e-3)  # nats


def test_logits_of_a_dense_layer_are_those_of_the_head():
    features, labels = examples(60, 3)
    head = solve_head(features, labels, features, labels, 3)
    dense = layers.Dense(3)
    network = keras.Sequential([keras.Input((FEATURES,)), dense])
    dense.set_weights([head.kernel, head.bias])
    logits = network.predict(features, verbose=0)
    np.testing.assert_allclose(logits, head.logits(features), rtol=1e-4, atol=1e-4)
    assert scores("train", head.logits(features), labels)["train_loss"] == pytest.approx(
        cross_entropy(logits, labels), abs=1e-4
    )


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200), st.integers(1, 250))
def test_sample_has_the_first_images_and_of_each_class_enough(labels: list[int], count: int):
    chosen = np.flatnonzero(sample(np.array(labels), count)).tolist()
    assert chosen[: min(count, len(labels))] == [*range(min(count, len(labels)))]
    of_class = {label: [place for place, value in enumerate(labels) if value == label] for label in labels}
    assert all(set(places[:RARE]) <= set(chosen) for places in of_class.values())
    assert all(place < count or place in of_class[labels[place]][:RARE] for place in chosen)


IMAGES, CLASSES = 24, 3


class Killed(Exception):
    """Replaces the end of the process."""


@pytest.fixture
def teacher(params: Params) -> Params:
    """Parameters of a small teacher with random weights from a file, to be fine-tuned."""
    values = {"image_size": 32, "dropout": 0.2, "fine_tune": 48, "batch_size": 8, "learning_rate": 0.001}
    chosen = params.model_copy(update={"budget": changed(params.budget, teacher=3 * IMAGES)})
    return chosen.model_copy(update={"teacher": changed(params.teacher, weights="backbone.weights.h5", **values)})


def small_teacher(teacher: Teacher, classes: int) -> keras.Model:
    """A small teacher whose weights are always the same, as pretrained weights are."""
    image = keras.Input((teacher.image_size, teacher.image_size, 3), name="image")
    x = layers.Conv2D(8, 5, 4, kernel_initializer=keras.initializers.HeNormal(1))(layers.Rescaling(1 / 127.5)(image))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization()(x)))
    logits = layers.Dense(classes, name=HEAD)(layers.Dropout(teacher.dropout)(x))
    return keras.Model(image, {"logits": logits}, name="teacher")


@pytest.fixture
def workplace(tmp_path: Path, records_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with records, in which teachers are small, and checkpoints have a fingerprint without a dvc.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/records").symlink_to(records_directory)
    monkeypatch.setattr(checkpoint, "fingerprint", lambda stage: f"of {stage}")
    monkeypatch.setattr(fitting, "REPORTS", 3)
    for module in (train_teacher, training_teacher):
        monkeypatch.setattr(module, "build_teacher", small_teacher)
    return tmp_path


def published() -> dict[str, bytes]:
    """The content of all files that the stage leaves."""
    files = [*Path("models").rglob("*"), *Path("metrics").rglob("*"), *Path("plots").rglob("*")]
    return {str(path): path.read_bytes() for path in files if path.is_file()}


def backbone_of(network: keras.Model) -> list[np.ndarray]:
    return network.get_weights()[:-2]


def test_frozen_backbone_stays_as_it_is_under_the_best_head(workplace: Path, teacher: Params):
    chosen = teacher.model_copy(update={"teacher": changed(teacher.teacher, fine_tune=0)})
    train_teacher.main(chosen)
    network = load_network("models/teacher")
    before = small_teacher(chosen.teacher, CLASSES)
    assert all(map(np.array_equal, backbone_of(network), backbone_of(before)))
    validation = Records("validation")
    [images] = plain_images(validation, 32)
    logits = network.predict(images, verbose=0)["logits"]
    metrics = read_json("metrics/teacher.json")
    assert metrics["validation_accuracy"] == pytest.approx(
        (logits.argmax(axis=1) == validation.labels).mean(), abs=1e-5
    )
    assert metrics["validation_loss"] == pytest.approx(cross_entropy(logits, validation.labels), rel=1e-3)
    [row] = read_json("plots/history/teacher.json")
    assert row == {"images": 3 * IMAGES} | metrics
    assert not list(Path(".checkpoints").iterdir())


def test_head_of_more_images_than_its_budget_learns_from_a_sample(
    workplace: Path, teacher: Params, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(training_teacher, "RARE", 3)
    chosen = {"teacher": changed(teacher.teacher, fine_tune=0), "budget": changed(teacher.budget, teacher=5)}
    train_teacher.main(teacher.model_copy(update=chosen))
    [row] = read_json("plots/history/teacher.json")
    train = Records("train")
    learned = sample(train.labels, 5)
    assert row["images"] == learned.sum() < IMAGES
    images = np.concatenate([*plain_images(train, 32)])[learned]
    logits = load_network("models/teacher").predict(images, verbose=0)["logits"]
    assert row["train_loss"] == pytest.approx(cross_entropy(logits, train.labels[learned]), rel=1e-3)


@pytest.mark.parametrize(("frozen", "tuned", "is_tuned"), [(0.8, 0.81, True), (0.8, 0.8, False), (0.8, 0.7, False)])
def test_validation_chooses_between_frozen_and_fine_tuned(frozen: float, tuned: float, is_tuned: bool):
    networks = keras.Sequential(name="frozen"), keras.Sequential(name="tuned")
    histories = [{"validation_accuracy": frozen}], [{"validation_accuracy": 1}, {"validation_accuracy": tuned}]
    chosen, history, metrics = better(*zip(networks, histories, strict=True))
    assert chosen is networks[is_tuned]
    assert history is histories[is_tuned]
    assert metrics == {
        "fine_tuned": is_tuned,
        "frozen_validation_accuracy": frozen,
        "fine_tuned_validation_accuracy": tuned,
    }


def test_fine_tuning_moves_kernels_and_leaves_normalisation_alone(workplace: Path, teacher: Params):
    train, validation = Records("train"), Records("validation")
    frozen = small_teacher(teacher.teacher, CLASSES)
    tuned, history = fine_tune(frozen, train, validation, teacher)
    assert tuned.input_shape[1] == 32
    for before, after in zip(frozen.layers, tuned.layers, strict=True):
        for old, new in zip(before.get_weights(), after.get_weights(), strict=True):
            moves = not isinstance(before, layers.BatchNormalization)
            assert np.array_equal(old, new) is not moves
        assert after.trainable
    assert [row["images"] for row in history] == [16, 32, 48]
    logits = tuned.predict(np.concatenate([*plain_images(validation, 32)]), verbose=0)["logits"]
    assert history[-1]["validation_loss"] == pytest.approx(cross_entropy(logits, validation.labels), rel=1e-3)


def test_teacher_learns_from_views_that_are_not_mixed(
    workplace: Path, teacher: Params, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(viewing, "UNMIXED", 0)
    monkeypatch.setattr(train_teacher, "better", lambda frozen, tuned: (*tuned, {"fine_tuned": True}))
    found = []
    for mix in (0.0, 0.5):
        keras.utils.clear_session()  # the names of layers are counted anew, as in a new process
        augment = teacher.views.augment.model_dump() | {"mix": mix}
        train_teacher.main(teacher.model_copy(update={"views": changed(teacher.views, augment=augment)}))
        found.append(published())
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["fine_tune", "step", "publish"])
def test_killed_teacher_ends_with_the_same_bytes(
    workplace: Path, teacher: Params, monkeypatch: pytest.MonkeyPatch, where: str
):
    """Killed after its head, during fine-tuning, and after both; finished work is not repeated."""
    keras.utils.clear_session()  # the names of layers are counted anew, as in a new process
    monkeypatch.setattr(train_teacher, "better", lambda frozen, tuned: (*tuned, {"fine_tuned": True}))
    train_teacher.main(teacher)
    undisturbed = published()
    for name in ("models", "metrics", "plots"):
        shutil.rmtree(name)
    keras.utils.clear_session()

    def killed(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if where == "step":
            steps, original = itertools.count(1), fitting.training_step

            def counted(*arguments: object) -> Callable:
                step = original(*arguments)
                return lambda *batch: killed() if next(steps) == 4 else step(*batch)

            patch.setattr(fitting, "training_step", counted)
        else:
            patch.setattr(train_teacher, where, killed)
        with pytest.raises(Killed):
            train_teacher.main(teacher)
    keras.utils.clear_session()
    solved, original = [], training_teacher.solve_head
    monkeypatch.setattr(
        training_teacher, "solve_head", lambda *a, **named: solved.append(None) or original(*a, **named)
    )
    train_teacher.main(teacher)
    assert published().keys() == undisturbed.keys()
    for name, content in published().items():
        assert content == undisturbed[name], name
    assert len(solved) == (0 if where == "publish" else 1)
    assert not list(Path(".checkpoints").iterdir())


def test_fine_tuning_random_weights_is_refused(params: Params):
    with pytest.raises(ValueError, match="fine_tune should be 0 where weights is null"):
        changed(params.teacher, weights=None, fine_tune=100)

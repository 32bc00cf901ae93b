"""Training: the same images, answers and weights every time, however often it is interrupted."""

import io
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from helpers import changed, random_examples, split_examples, write
from keras import layers
from scipy.special import log_softmax

from distillation import cpu, resume
from distillation.data import views as viewing
from distillation.data.records import Records
from distillation.data.splits import UNLABELED
from distillation.errors import InputError
from distillation.files import read_json
from distillation.inference.answers import Answers, write_parts
from distillation.inference.forward import BATCH as ANSWERED_AT_A_TIME
from distillation.inference.forward import plain_images, view_images
from distillation.networks.network import MAPS, load_network
from distillation.networks.students import build_student, with_projections
from distillation.params import Budget, Params, Student, Training, Views
from distillation.training import batches as batching
from distillation.training import checkpoint
from distillation.training import fit as fitting
from distillation.training import student as students
from distillation.training.batches import Stream, plain_batches, view_stream
from distillation.training.checkpoint import Checkpoint, discard
from distillation.training.fit import fit, publish, set_seed
from distillation.training.muon import Muon
from distillation.training.objective import Objective
from distillation.training.precision import in_precision

VIEWS, BATCH, SIZE, CLASSES = 2, 7, 32, 3
STEPS, REPORTS = 10, 3  # 10 batches of 7 are nearly three passes over 24 images
ENDS = [0, 3, 6, 10]  # steps at each report
SHAPES = {"middle_map": (2, 2, 1), "last_map": (1, 1, 4)}
Result = tuple[list[np.ndarray], list[dict[str, float]]]


class Killed(Exception):
    """Replaces the end of the process."""


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A network starts from the same weights, whichever tests ran before."""
    set_seed(0)


@pytest.fixture
def views(params: Params) -> Views:
    return changed(params.views, augment={"crop": 0.5, "flip": 0.5, "colour": 0.1}, seed=3)


@pytest.fixture
def student(params: Params) -> Student:
    values = {"image_size": SIZE, "channels": [4, 8], "blocks": 1, "batch_size": BATCH}
    return changed(params.student, **values, learning_rate=0.01, weight_decay=0.1, warmup=0.2, seed=5)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, in which checkpoints have a fingerprint without a dvc.yaml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "fingerprint", lambda stage: f"of {stage}")
    monkeypatch.setattr(fitting, "REPORTS", REPORTS)
    return tmp_path


@pytest.fixture
def train(
    workplace: Path, records: Records, validation_records: Records, views: Views, student: Student
) -> Callable[..., Result]:
    """A function that trains a student as the stages do, and returns its weights and history."""

    def run(
        objective: Objective | None = None,
        answers: Answers | None = None,
        build: Callable[[], keras.Model] = lambda: build_student(student, CLASSES),
        seen: Callable[[int], None] = lambda step: None,
        steps: int = STEPS,
        publishes: bool = True,
        **values: object,
    ) -> Result:
        chosen, objective = changed(student, **values), objective or Objective()
        set_seed(chosen.seed)
        network = build()
        names = objective.reads() if answers else []
        stream = view_stream(records, SIZE, views, VIEWS, chosen, answers, names)

        def observed(step: int) -> tf.data.Dataset:
            seen(step)
            return stream(step)

        trained = with_projections(network, {name: answers.shapes[name] for name in names if name != "logits"})
        validation = plain_batches(validation_records, SIZE, BATCH)
        history = fit(
            "distill", "student", trained, objective, observed, validation, steps, chosen, 2, chosen.precision
        )
        if publishes:
            publish("distill", "student", network, history)
        return [variable.numpy() for variable in trained.variables], history

    return run


def with_dropout() -> keras.Model:
    """A network that draws random numbers while it trains."""
    image = keras.Input((SIZE, SIZE, 3), name="image")
    x = layers.Conv2D(4, 5, 4, activation="relu")(layers.Rescaling(1 / 127.5, offset=-1)(image))
    x = layers.Dropout(0.5)(layers.BatchNormalization()(layers.GlobalAveragePooling2D()(x)))
    return keras.Model(image, {"logits": layers.Dense(CLASSES)(x)})


def linear(features: int = 4, classes: int = CLASSES) -> keras.Model:
    """A network whose answers NumPy can compute too."""
    source = keras.Input((features,), name="features")
    return keras.Model(source, {"logits": layers.Dense(classes)(source)})


def array_stream(arrays: dict[str, np.ndarray], training: Training) -> Stream:
    """Training batches of arrays, each (n, ...), in the order in which images are shown."""
    rows = tf.data.Dataset.from_tensor_slices(arrays)

    def of_pass(number: tf.Tensor) -> tf.data.Dataset:
        return batching._shuffled(rows, len(rows), training.seed, number)

    def from_step(step: int) -> tf.data.Dataset:
        passes = batching._passes(of_pass, len(rows), step * training.batch_size)
        return passes.batch(training.batch_size, drop_remainder=True)

    return from_step


def telling_answers(directory: Path, images: int, views: int = VIEWS) -> Answers:
    """Answers that encode their origin: the logits are the number of the image, of the view, and -1."""
    view, number = (numbers.ravel() for numbers in np.meshgrid(np.arange(views), np.arange(images), indexing="ij"))
    answers = {"logits": np.stack([number, view, np.full_like(number, -1)], axis=-1).astype(np.float32)}
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        answers[name] = rng.normal(size=(len(number), *shape)).astype(np.float16)
    starts = range(0, len(number), ANSWERED_AT_A_TIME)
    slices = [slice(start, start + ANSWERED_AT_A_TIME) for start in starts]
    write_parts(directory, 0, ({name: values[part] for name, values in answers.items()} for part in slices))
    return Answers(views, images, directory)


@pytest.fixture
def answers(records: Records, tmp_path: Path) -> Answers:
    return telling_answers(tmp_path / "answers", len(records))


def observe_steps(monkeypatch: pytest.MonkeyPatch, before: Callable) -> None:
    """Call `before(optimizer, fade)` at the beginning of every step of the trainings that follow."""

    def observed(network: keras.Model, objective: Objective, optimizer: keras.optimizers.Optimizer) -> Callable:
        step = original(network, objective, optimizer)

        def take(batch: dict, fade: tf.Tensor) -> dict:
            before(optimizer, fade)
            return step(batch, fade)

        return take

    original = fitting.training_step
    monkeypatch.setattr(fitting, "training_step", observed)


def kill(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """End the next training at the beginning of a step (counted from 1), as a kill would."""
    numbers = itertools.count(1)

    def count(optimizer: keras.optimizers.Optimizer, fade: tf.Tensor) -> None:
        if next(numbers) == step:
            raise Killed

    observe_steps(monkeypatch, count)


def assert_equal(one: Result, other: Result) -> None:
    for mine, theirs in zip(one[0], other[0], strict=True):
        assert np.array_equal(mine, theirs)
    assert one[1] == other[1]


def taken(stream: Stream, count: int, step: int = 0) -> list[dict]:
    """`count` batches of a stream, after so many steps."""
    return [*stream(step).take(count).as_numpy_iterator()]


def joined(batches: Sequence[dict], *keys: str) -> np.ndarray:
    for key in keys:
        batches = [batch[key] for batch in batches]
    return np.concatenate(batches)


def assert_same_batches(some: Sequence[dict], others: Sequence[dict]) -> None:
    for one, other in zip(some, others, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)


@pytest.fixture
def mixing(views: Views, monkeypatch: pytest.MonkeyPatch) -> Views:
    """Augmentation that mixes all views of an image but the first."""
    monkeypatch.setattr(viewing, "UNMIXED", 1)
    return changed(views, augment=views.augment.model_dump() | {"mix": 0.5})


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("batch_size", [7, 24, 50])
def test_each_pass_shows_its_view_of_every_image_once_with_its_own_answers(
    records: Records,
    answers: Answers,
    views: Views,
    student: Student,
    monkeypatch: pytest.MonkeyPatch,
    in_memory: bool,
    batch_size: int,
):
    if not in_memory:
        monkeypatch.setattr(batching, "IN_MEMORY", 0)
    expected = np.concatenate([*view_images(records, SIZE, views, VIEWS)]).reshape(VIEWS, -1, SIZE, SIZE, 3)
    stream = view_stream(records, SIZE, views, VIEWS, changed(student, batch_size=batch_size), answers, ["logits"])
    passes = 5
    batches = taken(stream, -(-passes * len(records) // batch_size))
    assert {tuple(batch) for batch in batches} == {("image", "label", "teacher")}
    assert {len(batch["image"]) for batch in batches} == {batch_size}  # they run across passes: nothing is dropped
    images, labels = joined(batches, "image"), joined(batches, "label")
    logits = joined(batches, "teacher", "logits")
    assert images.dtype == logits.dtype == np.float32
    assert labels.dtype == np.int64
    orders = []
    for number in range(passes):
        of_pass = slice(number * len(records), (number + 1) * len(records))
        image, view, third = logits[of_pass].astype(int).T
        assert sorted(image) == [*range(len(records))]
        assert set(view) == {number % VIEWS}
        assert set(third) == {-1}
        assert np.array_equal(labels[of_pass], records.labels[image])
        np.testing.assert_allclose(images[of_pass], expected[number % VIEWS, image], atol=5e-3)
        orders.append(tuple(image))
    assert len(set(orders)) == passes


@pytest.mark.parametrize("in_memory", [True, False])
def test_mixed_views_are_those_that_the_teacher_answers_and_come_with_both_labels(
    records: Records,
    answers: Answers,
    mixing: Views,
    student: Student,
    monkeypatch: pytest.MonkeyPatch,
    in_memory: bool,
):
    if not in_memory:
        monkeypatch.setattr(batching, "IN_MEMORY", 0)
    n = len(records)
    answered = np.concatenate([*view_images(records, SIZE, mixing, VIEWS)]).reshape(VIEWS, n, SIZE, SIZE, 3)
    bare = changed(mixing, augment=mixing.augment.model_dump() | {"mix": 0.0})
    decoded = np.stack([one["image"] for one in records.batches(1).unbatch().as_numpy_iterator()])
    ids = records.ids.astype(bytes)
    alone, others = (viewing.augmented(decoded, ids, number, SIZE, bare).numpy() for number in (1, -2))
    for batch in taken(view_stream(records, SIZE, mixing, VIEWS, student, answers, ["logits"]), STEPS):
        assert tuple(batch) == ("image", "label", "partner_label", "partner_share", "teacher")
        image, view = batch["teacher"]["logits"][:, :2].astype(int).T
        np.testing.assert_allclose(batch["image"], answered[view, image], atol=5e-3)
        assert np.array_equal(batch["label"], records.labels[image])
        assert np.array_equal(batch["partner_share"] > 0, view == 1)
        for row in np.flatnonzero(view == 1):
            share = batch["partner_share"][row]
            mixtures = (1 - share) * alone[image[row]] + share * others
            [partner] = np.flatnonzero(np.abs(mixtures - batch["image"][row]).max(axis=(1, 2, 3)) < 5e-3)
            assert partner != image[row]
            assert batch["partner_label"][row] == records.labels[partner]


def test_answers_come_by_their_names_row_by_row(records: Records, answers: Answers, views: Views, student: Student):
    stored = np.load(answers.directory / "part-00000/last_map.npy").reshape(VIEWS, len(records), 1, 1, 4)
    for names in (["logits", "last_map"], ["last_map", "logits"], ["logits", *MAPS]):
        for batch in taken(view_stream(records, SIZE, views, VIEWS, student, answers, names), 7):
            teacher = batch["teacher"]
            assert set(teacher) == set(names)
            assert {values.dtype for values in teacher.values()} == {np.dtype(np.float32)}
            image, view = teacher["logits"][:, :2].astype(int).T
            assert np.array_equal(teacher["last_map"], stored[view, image].astype(np.float32))


def test_without_names_no_answers_are_read(records: Records, answers: Answers, views: Views, student: Student):
    for path in answers.directory.rglob("*.npy"):
        path.unlink()
    with_answers = taken(view_stream(records, SIZE, views, VIEWS, student, answers, []), 4)
    assert_same_batches(with_answers, taken(view_stream(records, SIZE, views, VIEWS, student), 4))
    assert set(with_answers[0]) == {"image", "label"}


def test_students_with_and_without_a_teacher_see_the_same(
    records: Records, answers: Answers, views: Views, student: Student
):
    taught = taken(view_stream(records, SIZE, views, VIEWS, student, answers, ["logits"]), STEPS)
    for batch in taught:
        del batch["teacher"]
    assert_same_batches(taught, taken(view_stream(records, SIZE, views, VIEWS, student), STEPS))


def test_few_labeled_images_fill_the_batches_with_further_views(views: Views, student: Student, tmp_path: Path):
    splits = split_examples(random_examples(36, CLASSES, SIZE), ["ant", "bee", "cow"], 0.2, 0.2, seed=0)
    write(tmp_path / "records", splits, ["ant", "bee", "cow"], SIZE, labeled_fraction=0.3)
    labeled = Records("train", labeled_only=True, directory=tmp_path / "records")
    assert len(labeled) == 6 < BATCH
    expected = np.concatenate([*view_images(labeled, SIZE, views, VIEWS)]).reshape(VIEWS, -1, SIZE, SIZE, 3)
    batches = taken(view_stream(labeled, SIZE, views, VIEWS, student), 6)  # 42 images: seven passes
    shown = []
    for image, label in zip(joined(batches, "image"), joined(batches, "label"), strict=True):
        distances = np.abs(expected - image).mean(axis=(2, 3, 4))
        view, number = np.unravel_index(distances.argmin(), distances.shape)
        assert distances[view, number] < 5e-3
        assert label == labeled.labels[number]
        shown.append((view, number))
    assert shown != sorted(shown)
    for number in range(7):
        of_pass = shown[number * len(labeled) : (number + 1) * len(labeled)]
        assert sorted(of_pass) == [(number % VIEWS, image) for image in range(len(labeled))]


@pytest.mark.parametrize("kind", ["views", "mixing"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_images_are_decoded_once_where_they_fit_into_memory(
    request: pytest.FixtureRequest,
    records: Records,
    student: Student,
    monkeypatch: pytest.MonkeyPatch,
    in_memory: bool,
    kind: str,
):
    """Mixed ones twice, since the first pass keeps what it has of each use."""
    views, uses = request.getfixturevalue(kind), 1 + (kind == "mixing")
    decoded, decode = [], batching.decode

    def counted(serialised: tf.Tensor, image_size: int) -> dict:
        example = decode(serialised, image_size)
        known = tf.numpy_function(lambda name: decoded.append(name) or name, [example["id"]], tf.string)
        return example | {"id": tf.ensure_shape(known, ())}

    monkeypatch.setattr(batching, "decode", counted)
    decoded_bytes = uses * len(records) * records.manifest.image_size**2 * 3
    monkeypatch.setattr(batching, "IN_MEMORY", decoded_bytes - (not in_memory))
    taken(view_stream(records, SIZE, views, VIEWS, changed(student, batch_size=24)), 4)
    assert (len(decoded) == uses * len(records)) == in_memory
    assert len(decoded) >= 4 * uses * len(records) or in_memory


@pytest.mark.parametrize("kind", ["views", "mixing"])
@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("step", [1, 3, 4, 7, 9])
def test_stream_from_a_step_is_the_undisturbed_one_without_its_first_batches(
    request: pytest.FixtureRequest,
    records: Records,
    answers: Answers,
    student: Student,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    in_memory: bool,
    kind: str,
):
    views = request.getfixturevalue(kind)
    if not in_memory:
        monkeypatch.setattr(batching, "IN_MEMORY", 0)
    streams = [view_stream(records, SIZE, views, VIEWS, student, answers, ["logits", *MAPS]) for _ in range(2)]
    assert_same_batches(taken(streams[0], STEPS - step, step), taken(streams[1], STEPS)[step:])


def test_order_depends_on_seed_and_pass_alone(student: Student):
    def orders(seed: int) -> list[tuple[int, ...]]:
        stream = array_stream({"number": np.arange(50)}, changed(student, seed=seed, batch_size=50))
        return [tuple(batch["number"]) for batch in taken(stream, 2)]

    first = [*orders(0), *orders(1)]
    assert len(set(first)) == 4
    for seed in (0, 7):
        tf.random.set_seed(seed)
        tf.random.uniform([])
        assert [*orders(0), *orders(1)] == first


def test_validation_shows_every_image_once_in_id_order(validation_records: Records):
    batches = [*plain_batches(validation_records, SIZE, 4).as_numpy_iterator()]
    assert [len(batch["image"]) for batch in batches] == [4, 2]
    assert joined(batches, "label").tolist() == validation_records.labels.tolist()
    expected = np.concatenate([*plain_images(validation_records, SIZE)])
    np.testing.assert_allclose(joined(batches, "image"), expected, atol=1e-4)


def test_muon_takes_the_nearest_orthogonal_matrix_of_a_kernels_momentum():
    rng = np.random.default_rng(0)
    kernel = keras.Variable(np.zeros((3, 3, 8, 16), np.float32))
    gradients = rng.normal(size=(2, 3, 3, 8, 16)).astype(np.float32)
    optimizer = Muon(0.5, weight_decay=0, adam_weight_decay=0)
    optimizer.build([kernel])
    momentum, expected = np.zeros((72, 16)), np.zeros((72, 16))
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [kernel])
        momentum = 0.95 * momentum + gradient.reshape(72, 16)
        u, _, v = np.linalg.svd(gradient.reshape(72, 16) + 0.95 * momentum, full_matrices=False)
        expected -= 0.5 * 0.2 * 72**0.5 * u @ v
    # Five Newton-Schulz steps bring the singular values near 1, between 0.7 and 1.2, not to it.
    moved = kernel.numpy().reshape(72, 16)
    assert np.vdot(moved, expected) / np.linalg.norm(moved) / np.linalg.norm(expected) > 0.97
    assert np.linalg.norm(moved) == pytest.approx(np.linalg.norm(expected), rel=0.2)


@pytest.mark.parametrize("shape", [(3, 3, 8, 16), (1, 1, 8, 16), (1, 1, 16, 16)])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_newton_schulz_by_the_gram_matrix_maps_singular_values_as_keras_does(shape: tuple[int, ...], scale: float):
    rng = np.random.default_rng(0)
    strengths = np.linspace(0, 1, shape[-1]) ** 6  # singular values over several orders of magnitude, and a zero
    kernel = (scale * rng.normal(size=shape) * strengths).astype(np.float32)
    matrix = kernel.reshape(-1, shape[-1])
    u, s, v = np.linalg.svd(matrix.astype(np.float64) / (np.linalg.norm(matrix) + 1e-7), full_matrices=False)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5  # Jordan et al. (2024)
    of_keras = keras.optimizers.Muon(0.1).zeropower_via_newtonschulz5(keras.ops.convert_to_tensor(matrix), 5)
    np.testing.assert_allclose(of_keras, u * s @ v, atol=1e-3)
    ours = Muon(0.1).zeropower_via_newtonschulz5(keras.ops.convert_to_tensor(kernel), 5)
    np.testing.assert_allclose(ours, np.reshape(u * s @ v, shape), atol=1e-3)


@pytest.mark.parametrize("shape", [(3, 3, 8, 1), (7, 7, 1, 8), (16, 3), (16,)])  # depthwise in two forms
def test_all_but_convolutions_is_trained_by_adamw(shape: tuple[int, ...]):
    rng = np.random.default_rng(0)
    start, *gradients = rng.normal(size=(4, *shape)).astype(np.float32)
    optimizers = [Muon(0.1, weight_decay=0.3, adam_weight_decay=0.3), keras.optimizers.AdamW(0.1, weight_decay=0.3)]
    ends = []
    for optimizer in optimizers:
        variable = keras.Variable(start)
        for gradient in gradients:
            optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        ends.append(variable.numpy())
    np.testing.assert_allclose(*ends, rtol=1e-4, atol=1e-5)


def test_history_reports_the_networks_accuracy_and_cross_entropy(
    train: Callable[..., Result], validation_records: Records, student: Student
):
    _, history = train(steps=8)
    assert [row["images"] for row in history] == [BATCH * step for step in (2, 5, 8)]
    network = load_network("models/student")
    logits = network.predict(plain_images(validation_records, SIZE), verbose=0)["logits"].astype(np.float64)
    labels = validation_records.labels
    assert history[-1]["validation_accuracy"] == pytest.approx((logits.argmax(axis=1) == labels).mean())
    surprise = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()
    assert history[-1]["validation_loss"] == pytest.approx(surprise, rel=1e-4)
    assert read_json("plots/history/student.json") == [
        {name: pytest.approx(value, rel=1e-5) for name, value in row.items()} for row in history
    ]


@pytest.mark.parametrize("labeled", [1.0, 0.5, 0.0])
def test_history_has_means_over_what_was_shown_since_the_last_report_and_is_labeled(
    workplace: Path, student: Student, labeled: float
):
    """The network learns almost nothing, so NumPy can compute its answers."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 4)).astype(np.float32)
    labels = np.where(rng.uniform(size=40) < labeled, rng.integers(0, CLASSES, 40), UNLABELED)
    arrays = {"features": features, "label": labels, "logits": rng.normal(size=(40, CLASSES)).astype(np.float32)}
    still = changed(student, learning_rate=1e-9, weight_decay=0)
    stream, objective = array_stream(arrays, still), Objective(0.25, 2.0)

    def with_teacher(step: int) -> tf.data.Dataset:
        return stream(step).map(lambda batch: batch | {"teacher": {"logits": batch["logits"]}})

    network = linear()
    kernel, bias = network.get_weights()
    validation = {name: arrays[name][:11] for name in ("features", "label")}
    batches = tf.data.Dataset.from_tensor_slices(validation).batch(BATCH)
    history = fit("distill", "student", network, objective, with_teacher, batches, STEPS, still)

    def expected(rows: dict[str, np.ndarray], split: str) -> dict[str, float]:
        logits = rows["features"].astype(np.float64) @ kernel + bias
        known = rows["label"] != UNLABELED
        surprise = -log_softmax(logits, axis=1)[np.arange(len(logits)), rows["label"]]
        right = logits.argmax(axis=1) == rows["label"]
        if not known.any():
            return {f"{split}_accuracy": 0.0, f"{split}_loss": 0.0}
        return {f"{split}_accuracy": right[known].mean(), f"{split}_loss": surprise[known].mean()}

    shown = taken(stream, STEPS)
    assert [row["images"] for row in history] == [BATCH * end for end in ENDS[1:]]
    for row, start, end in zip(history, ENDS[:-1], ENDS[1:], strict=True):
        rows = {name: joined(shown[start:end], name) for name in arrays}
        logits = rows["features"].astype(np.float64) @ kernel + bias
        known = rows["label"] != UNLABELED
        surprise = -log_softmax(logits, axis=1)[np.arange(len(logits)), rows["label"]]
        p, q = (log_softmax(values / 2, axis=1) for values in (rows["logits"].astype(np.float64), logits))
        wanted = expected(rows, "train") | expected(validation, "validation")
        wanted |= {
            "images": end * BATCH,
            "objective_hard": 0.25 * (known * surprise).mean(),
            "objective_soft": 0.75 * 4 * (np.exp(p) * (p - q)).sum(axis=1).mean(),
            "objective_features": 0.0,
        }
        assert row == pytest.approx(wanted, rel=1e-4, abs=1e-7)


def test_validation_is_of_a_part_until_the_last_report(
    workplace: Path, student: Student, monkeypatch: pytest.MonkeyPatch
):
    rng = np.random.default_rng(0)
    arrays = {"features": rng.normal(size=(60, 4)).astype(np.float32), "label": rng.integers(0, CLASSES, 60)}
    still = changed(student, learning_rate=1e-9, weight_decay=0)
    network = linear()
    logits = network.predict(arrays["features"], verbose=0)["logits"].astype(np.float64)
    surprise = -log_softmax(logits, axis=1)[np.arange(60), arrays["label"]]
    batches = tf.data.Dataset.from_tensor_slices(arrays).batch(BATCH)
    # Whole batches, at least one, and no more than were trained on since the last report.
    for most, expected in ((20, 14), (21, 21), (3, 7), (2000, 21)):
        monkeypatch.setattr(fitting, "VALIDATION_IMAGES", most)
        history = fit("distill", "student", network, Objective(), array_stream(arrays, still), batches, STEPS, still)
        discard("distill")
        losses = [row["validation_loss"] for row in history]
        assert losses == pytest.approx([surprise[:expected].mean()] * 2 + [surprise.mean()], rel=1e-4)


def test_validation_is_of_two_thousand_images_and_there_are_twenty_reports():
    assert fitting.VALIDATION_IMAGES == 2000
    assert fitting.REPORTS == 20


@pytest.mark.parametrize("warmup_steps", [0, 4])
def test_learning_rate_rises_linearly_and_falls_along_a_cosine_to_zero(
    workplace: Path, student: Student, monkeypatch: pytest.MonkeyPatch, warmup_steps: int
):
    rates, fades = [], []
    observe_steps(
        monkeypatch, lambda optimizer, fade: (rates.append(float(optimizer.learning_rate)), fades.append(fade))
    )
    arrays = {"features": np.ones((9, 4), np.float32), "label": np.zeros(9, int)}
    batches = tf.data.Dataset.from_tensor_slices(arrays).batch(9)
    stream = array_stream(arrays, student)
    fit("distill", "student", linear(), Objective(), stream, batches, STEPS, student, warmup_steps)
    falling = STEPS - warmup_steps
    cosine = [0.01 * (1 + math.cos(math.pi * step / falling)) / 2 for step in range(falling)]
    assert rates == pytest.approx([0.01 * step / 4 for step in range(warmup_steps)] + cosine, rel=1e-4)
    assert [float(fade) for fade in fades] == pytest.approx([1] * 3 + [4 / 9] * 3 + [1 / 9] * 4)


def test_weights_decay_but_biases_and_normalisation_do_not(workplace: Path, student: Student):
    """Without labels, only decay changes a weight."""
    rng = np.random.default_rng(0)
    network = with_dropout()
    for weight in network.trainable_weights:
        weight.assign(rng.uniform(1, 2, weight.shape))
    before = {weight.path: weight.numpy() for weight in network.trainable_weights}
    arrays = {"image": np.zeros((9, SIZE, SIZE, 3), np.float32), "label": np.full(9, UNLABELED)}
    batches = tf.data.Dataset.from_tensor_slices(arrays).batch(9)
    fit("distill", "student", network, Objective(), array_stream(arrays, student), batches, 1, student)
    kernels = []
    for weight in network.trainable_weights:
        decays = weight.path.endswith("kernel")
        factor = 1 - 0.01 * 0.1 if decays else 1
        np.testing.assert_allclose(weight, factor * before[weight.path], rtol=1e-6)
        kernels.append(decays)
    assert sorted(kernels) == [False] * 4 + [True] * 2


def test_same_seed_gives_the_same_weights_and_another_gives_others(train: Callable[..., Result]):
    first = train(steps=4)
    assert_equal(train(steps=4), first)
    other, _ = train(steps=4, seed=6)
    assert not all(np.array_equal(mine, theirs) for mine, theirs in zip(first[0], other, strict=True))


def test_alpha_one_trains_to_the_weights_of_training_from_scratch(train: Callable[..., Result], answers: Answers):
    scratch = train(steps=6)
    assert_equal(train(Objective(1.0, 4.0, {"features": 5.0}), answers, steps=6), scratch)
    distilled, _ = train(Objective(0.5, 4.0), answers, steps=6)
    assert not all(np.array_equal(mine, theirs) for mine, theirs in zip(scratch[0], distilled, strict=True))


@pytest.mark.parametrize(
    "build",
    [pytest.param(None, id="student, feature maps", marks=pytest.mark.slow), pytest.param(with_dropout, id="dropout")],
)
def test_training_killed_twice_ends_as_the_undisturbed_one(
    train: Callable[..., Result],
    answers: Answers,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    build: Callable | None,
):
    weights = {"features": 5.0} if build is None else {}
    options = {"objective": Objective(0.3, 2.0, weights), "answers": answers} | ({"build": build} if build else {})
    undisturbed = train(**options)
    assert any(row["objective_features"] > 0 for row in undisturbed[1]) == (build is None)
    asked = []
    for step in (5, 4):  # between the first report and the second; then, going on there, just after the second
        with monkeypatch.context() as patch:
            kill(patch, step)
            with pytest.raises(Killed):
                train(seen=asked.append, **options)
    assert read_json("plots/history/student.json") == [
        {name: pytest.approx(value, rel=1e-5) for name, value in row.items()} for row in undisturbed[1][:2]
    ]
    fades = []
    with monkeypatch.context() as patch:
        observe_steps(patch, lambda optimizer, fade: fades.append(float(fade)))
        assert_equal(train(seen=asked.append, **options), undisturbed)
    assert asked == [0, 3, 6]
    assert fades == pytest.approx([1 / 9] * 4)  # that of the third report, resumed or not
    assert [*(workplace / ".checkpoints").iterdir()] == []  # it has finished


def test_training_killed_after_its_last_step_is_not_repeated(
    train: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
):
    finished, steps = train(publishes=False), []
    Path("plots/history/student.json").unlink()
    observe_steps(monkeypatch, lambda optimizer, fade: steps.append(fade))
    assert_equal(train(publishes=True), finished)
    assert steps == []
    assert len(read_json("plots/history/student.json")) == REPORTS


def test_history_grows_with_every_report(train: Callable[..., Result], monkeypatch: pytest.MonkeyPatch):
    path, lengths = Path("plots/history/student.json"), []
    observe_steps(monkeypatch, lambda optimizer, fade: lengths.append(len(read_json(path)) if path.exists() else 0))
    train()
    assert lengths == [0] * 3 + [1] * 3 + [2] * 4
    assert len(read_json(path)) == 3


def test_fewer_steps_than_reports_are_reported_one_by_one(train: Callable[..., Result]):
    _, history = train(steps=2)
    assert [row["images"] for row in history] == [BATCH, 2 * BATCH]


def test_batch_may_be_larger_than_the_training_split(train: Callable[..., Result]):
    _, history = train(steps=2, batch_size=25)
    assert [row["images"] for row in history] == [25, 50]


def test_checkpoint_that_does_not_fit_is_not_taken_up(
    train: Callable[..., Result], workplace: Path, monkeypatch: pytest.MonkeyPatch, student: Student
):
    weights, history = train(publishes=False)
    (file,) = (workplace / ".checkpoints").iterdir()
    content = file.read_bytes()
    network = build_student(student, CLASSES)
    network = with_projections(network, {})
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 10)  # as in `fit`: a constant rate would be a variable
    optimizer = Muon(schedule)
    optimizer.build(network.trainable_variables)
    variables = [*network.variables, *optimizer.variables]
    untrained = [variable.numpy() for variable in variables]
    foreign = io.BytesIO()
    np.savez(foreign, weights=np.zeros(3))
    for damaged in (content[: len(content) // 2], content[:-1], content[:3], b"", b"no checkpoint", foreign.getvalue()):
        file.write_bytes(damaged)
        assert Checkpoint("distill", variables).restore() == []
    file.write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "fingerprint", lambda stage: "of other code")
        assert Checkpoint("distill", variables).restore() == []
    assert Checkpoint("train_scratch", variables).restore() == []
    assert all(np.array_equal(*pair) for pair in zip(variables, untrained, strict=True))
    assert Checkpoint("distill", variables).restore() == history
    assert all(np.array_equal(*pair) for pair in zip(network.variables, weights, strict=True))
    assert int(optimizer.iterations) == STEPS
    discard("distill")
    assert Checkpoint("distill", variables).restore() == []


def test_loss_that_is_no_number_ends_the_training(train: Callable[..., Result], answers: Answers, workplace: Path):
    path = answers.directory / "part-00000/logits.npy"
    np.save(path, np.full_like(np.load(path), np.nan))
    with pytest.raises(InputError, match=r"train_loss is nan after 21 images: a lower student.learning_rate may help"):
        train(Objective(0.5), answers)
    assert not any(workplace.rglob("*.npz"))


def test_last_step_that_diverges_leaves_no_checkpoint(workplace: Path, student: Student):
    """The values measured before each step are finite; the weights after the last step are not."""
    arrays = {"features": np.ones((BATCH, 4), np.float32), "label": np.zeros(BATCH, int)}
    held_out = {"features": np.full((BATCH, 4), 3e38, np.float32), "label": np.zeros(BATCH, int)}
    batches = tf.data.Dataset.from_tensor_slices(held_out).batch(BATCH)
    network = linear()
    with pytest.raises(InputError, match=r"validation_loss is (nan|inf) after 7 images.*learning_rate"):
        fit("distill", "student", network, Objective(), array_stream(arrays, student), batches, 1, student)
    assert not any(path.is_file() for path in workplace.rglob("*"))


def test_publishing_writes_the_network_and_its_last_metrics(workplace: Path, student: Student):
    network = build_student(student, CLASSES)
    row = {"train_accuracy": 0.5, "train_loss": 1.0, "validation_loss": 1.0, "objective_hard": 1.0}
    history = [row | {"images": 10 * number, "validation_accuracy": number / 4} for number in (1, 2)]
    Checkpoint("distill", network.variables).save(history)
    Checkpoint("train_scratch", network.variables).save(history)
    line = publish("distill", "student", network, history)
    assert line == "distill: validation accuracy 0.5000 -> models/student"
    written = sorted(path.relative_to(workplace).as_posix() for path in workplace.rglob("*") if path.is_file())
    assert written == [
        ".checkpoints/train_scratch.fit.npz",
        "metrics/student.json",
        "models/student/network.json",
        "models/student/network.weights.h5",
        "plots/history/student.json",
    ]
    names = ("train_accuracy", "train_loss", "validation_accuracy", "validation_loss")
    assert read_json("metrics/student.json") == {name: history[1][name] for name in names}
    other = load_network("models/student")
    assert all(np.array_equal(*pair) for pair in zip(other.get_weights(), network.get_weights(), strict=True))


def test_equal_networks_give_equal_files(workplace: Path, student: Student):
    contents = []
    for _ in range(2):
        keras.utils.clear_session()  # layers are numbered through a process; a stage is a process of its own
        set_seed(0)
        row = {"images": 1, "train_accuracy": 1, "train_loss": 1, "validation_accuracy": 1, "validation_loss": 1}
        publish("distill", "student", build_student(student, CLASSES), [row])
        contents.append([path.read_bytes() for path in sorted(Path("models/student").iterdir())])
    assert len(contents[0]) == 2
    assert contents[0] == contents[1]


@pytest.fixture
def half_labeled(workplace: Path, params: Params, student: Student, views: Views) -> Params:
    """The workplace of the stages that train students: records in which half of the labels are hidden."""
    splits = split_examples(random_examples(36, CLASSES, SIZE), ["ant", "bee", "cow"], 0.2, 0.2, seed=0)
    write(workplace / "data/records", splits, ["ant", "bee", "cow"], SIZE, labeled_fraction=0.5)
    budget = changed(params.budget, shown=STEPS * BATCH, answered=VIEWS * 24)
    return params.model_copy(update={"student": student, "views": views, "budget": budget})


def test_students_share_all_but_the_objective(half_labeled: Params, workplace: Path, monkeypatch: pytest.MonkeyPatch):
    """Both have equal steps, initial weights and schedule; only the distilled student sees unlabeled images."""
    calls = []

    def observed(stage: str, model: str, network: keras.Model, *others: object) -> list:
        calls.append((network.get_weights(), others))
        return fit(stage, model, network, *others)

    monkeypatch.setattr(students, "fit", observed)
    answers = telling_answers(workplace / "answers", 24)
    students.train_student("train_scratch", "student_scratch", half_labeled, Objective())
    objective = Objective(0.3, 2.0, {"features": 5.0})
    line = students.train_student("distill", "student_distilled", half_labeled, objective, answers)
    assert line.endswith("-> models/student_distilled")
    (scratch, (_, stream, _, *settings)), (distilled, (_, taught, _, *others)) = calls
    assert settings == others == [STEPS, half_labeled.student, round(0.2 * STEPS), "float32"]
    assert {weight.tobytes() for weight in scratch} <= {weight.tobytes() for weight in distilled}  # in another order
    assert len(distilled) == len(scratch) + 4  # two projections
    assert {*joined(taken(stream, 4), "label")} == {0, 1, 2}
    assert {*joined(taken(taught, 4), "label")} == {UNLABELED, 0, 1, 2}
    assert {*taken(taught, 1)[0]["teacher"]} == {"logits", *MAPS}
    histories = [read_json(f"plots/history/{model}.json") for model in ("student_scratch", "student_distilled")]
    assert [row["images"] for row in histories[0]] == [row["images"] for row in histories[1]]
    for model in ("student_scratch", "student_distilled"):  # published without the layers that serve training alone
        assert len(load_network(f"models/{model}").get_weights()) == len(scratch)
        assert set(load_network(f"models/{model}").output) == {"logits", *MAPS}


def test_training_shorter_than_a_batch_is_one_step(half_labeled: Params):
    params = half_labeled.model_copy(update={"student": changed(half_labeled.student, batch_size=100)})
    students.train_student("train_scratch", "student_scratch", params, Objective())
    assert [row["images"] for row in read_json("plots/history/student_scratch.json")] == [100]


@pytest.fixture
def fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A function that writes a small pipeline and returns the fingerprint of its stage `train`."""
    monkeypatch.chdir(tmp_path)
    Path("records/deep").mkdir(parents=True)

    def make(
        command: str = "python a.py",
        code: str = "a",
        data: str = "b",
        name: str = "c",
        alpha: float = 0.1,
        crop: float = 0.6,
        other: int = 1,
    ) -> str:
        stages = {
            "train": {
                "cmd": command,
                "deps": ["a.py", "records"],
                "params": ["distill.alpha", "views.augment"],
                "outs": ["model"],
            },
            "other": {"cmd": f"python {other}.py", "deps": [], "params": []},
        }
        params = {
            "distill": {"alpha": alpha, "alphabet": other, "temperature": other},
            "views": {"augment": {"crop": crop}, "augmented": other, "count": other},
        }
        Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        Path("params.yaml").write_text(yaml.safe_dump(params))
        Path("a.py").write_text(code)
        for path in Path("records/deep").iterdir():
            path.unlink()
        (Path("records/deep") / name).write_text(data)
        (Path("records/deep") / f"{name}.pyc").write_text(str(other))
        return resume.fingerprint("train")

    return make


def test_fingerprint_covers_what_dvc_makes_the_stage_depend_on(fingerprint: Callable[..., str]):
    first = fingerprint()
    assert fingerprint() == first
    assert fingerprint(other=2) == first
    changes = [{"command": "python b.py"}, {"code": "x"}, {"data": "x"}, {"name": "x"}, {"alpha": 0.2}, {"crop": 0.5}]
    assert len({first, *(fingerprint(**change) for change in changes)}) == 7


def test_unfinished_work_stays_until_what_it_depends_on_changes(fingerprint: Callable[..., str]):
    fingerprint()
    folder = resume.unfinished("train")
    folder.mkdir(parents=True)
    (folder / "part").write_text("done")
    others = resume.unfinished("other")
    others.mkdir()
    assert others != folder
    assert folder.parent == others.parent == resume.DIRECTORY
    assert resume.unfinished("train") == folder
    assert (folder / "part").read_text() == "done"
    fingerprint(code="x")
    changed_folder = resume.unfinished("train")
    assert changed_folder != folder
    assert not folder.exists()
    assert not changed_folder.exists()
    assert others.exists()


def test_in_bfloat16_a_network_computes_nearly_the_same_with_the_same_weights(workplace: Path, student: Student):
    set_seed(0)
    network = with_projections(build_student(student, CLASSES), SHAPES)
    copy = in_precision(network, "mixed_bfloat16")
    assert all(np.array_equal(*pair) for pair in zip(copy.get_weights(), network.get_weights(), strict=True))
    assert {variable.dtype for variable in copy.variables} == {"float32"}
    images = np.random.default_rng(0).uniform(0, 255, (4, SIZE, SIZE, 3)).astype(np.float32)
    expected, found = network(images), copy(images)
    for name, values in expected.items():
        assert found[name].dtype == tf.bfloat16
        scale = float(tf.math.reduce_std(values))
        np.testing.assert_allclose(tf.cast(found[name], tf.float32), values, atol=0.05 * scale)  # 8 bits: 1 in 256


def test_training_in_bfloat16_is_repeatable_and_leaves_a_float32_network(train: Callable[..., Result]):
    (weights, history), (again, _) = (train(precision="mixed_bfloat16") for _ in range(2))
    (exact, _) = train()
    assert all(np.array_equal(*pair) for pair in zip(weights, again, strict=True))
    assert {array.dtype for array in weights} == {np.dtype(np.float32)}
    assert not all(np.array_equal(*pair) for pair in zip(weights, exact, strict=True))
    assert np.isfinite(history[-1]["train_loss"])


def test_bfloat16_is_said_to_be_slow_where_the_cpu_lacks_it(
    workplace: Path, student: Student, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.delenv("CI", raising=False)
    for found, said in (({"avx2"}, True), ({"avx512_bf16"}, False), (None, False)):
        monkeypatch.setattr(cpu, "instructions", lambda found=found: found)
        in_precision(build_student(student, CLASSES), "mixed_bfloat16")
        assert ("mixed_bfloat16 will be slower" in capsys.readouterr().err) == said


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 1000), (64, 15), (1000, 1), (5000, 1)])
def test_steps_show_what_the_budget_says_in_whole_batches(batch_size: int, steps: int):
    assert students.number_of_steps(Budget(shown=1000), batch_size) == steps

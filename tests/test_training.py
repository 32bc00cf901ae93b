"""Training: the same pictures, targets and weights every time, however often it is interrupted."""

import io
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from helpers import changed, random_examples, write
from keras import layers

from distillation import checkpoint, training
from distillation.checkpoint import Checkpoint
from distillation.errors import InputError
from distillation.files import read_json
from distillation.inference import view_images
from distillation.losses import DistillationLoss
from distillation.params import Params, Student, Views
from distillation.records import Records, stratified_split
from distillation.student import build_student, with_projections
from distillation.training import fit, plain_batches, publish, set_seed, shuffled_batches, view_batches

EPOCHS, VIEWS, BATCH, SIZE, CLASSES = 3, 2, 7, 32, 3
ANSWERS, NUMBERS = tempfile.TemporaryDirectory(), itertools.count()  # files of the teacher's answers
Batches = Callable[[range], tf.data.Dataset]
Result = tuple[list[np.ndarray], list[dict[str, float]]]


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def views(params: Params) -> Views:
    return changed(params.views, count=VIEWS, min_area=0.5, colour=0.1, seed=3)


@pytest.fixture
def student(params: Params) -> Student:
    values = {"image_size": SIZE, "channels": [4, 8], "blocks": 1, "epochs": EPOCHS, "batch_size": BATCH}
    return changed(params.student, **values, learning_rate=0.01, weight_decay=0.1, warmup_epochs=0.5, seed=5)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, in which checkpoints have a fingerprint without a dvc.yaml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "fingerprint", lambda stage: f"of {stage}")
    return tmp_path


@pytest.fixture
def train(
    workplace: Path, records: Records, validation_records: Records, views: Views, student: Student
) -> Callable[..., Result]:
    """A function that trains a student as the stages do, and returns its weights and history."""

    def run(
        loss: DistillationLoss | None = None,
        soft_targets: tuple[np.memmap, ...] = (),
        build: Callable[[], keras.Model] = lambda: build_student(student, CLASSES),
        seen: Callable[[range], None] = lambda epochs: None,
        publishes: bool = True,
        **values: object,
    ) -> Result:
        chosen = changed(student, **values)
        set_seed(chosen.seed)
        model = build()
        batches = view_batches(records, SIZE, views, chosen, soft_targets)

        def observed(epochs: range) -> tf.data.Dataset:
            seen(epochs)
            return batches(epochs)

        validation = plain_batches(validation_records, SIZE, BATCH)
        loss = loss or DistillationLoss(CLASSES)
        history = fit("distill", model, observed, validation, len(records), chosen, loss, chosen.warmup_epochs)
        if publishes:
            publish("distill", "student", model, history)
        return model.get_weights(), history

    return run


def with_dropout() -> keras.Model:
    """A network that draws random numbers while it trains."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(4, 5, 4, activation="relu")(layers.Rescaling(1 / 127.5, offset=-1)(inputs))
    x = layers.Dropout(0.5)(layers.BatchNormalization()(layers.GlobalAveragePooling2D()(x)))
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def teacher_logits(records: Records) -> np.memmap:
    """(views, images, classes), each row telling whose it is: number of the image, of the view, and a third."""
    view, number = np.meshgrid(np.arange(VIEWS), np.arange(len(records)), indexing="ij")
    return mapped(np.stack([number, view, np.full_like(number, -1)], axis=-1).astype(np.float32))


def mapped(array: np.ndarray) -> np.memmap:
    """`array` as `distill` has it, mapped from a file."""
    path = Path(ANSWERS.name) / f"{next(NUMBERS)}.npy"
    np.save(path, array)
    return np.load(path, mmap_mode="r")


def kill(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the next training end at a step (counted from 1 over all epochs), as a kill would."""
    steps = []

    def count(self: Checkpoint, batch: int, logs: dict | None = None) -> None:
        steps.append(batch)
        if len(steps) == step:
            raise Killed

    monkeypatch.setattr(Checkpoint, "on_train_batch_begin", count)


def revive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoint, "on_train_batch_begin", keras.callbacks.Callback.on_train_batch_begin)


def assert_equal(one: Result, other: Result) -> None:
    for mine, theirs in zip(one[0], other[0], strict=True):
        assert np.array_equal(mine, theirs)
    assert one[1] == other[1]


def numbered_batches(
    records: Records, views: Views, student: Student, epochs: range
) -> list[tuple[np.ndarray, np.ndarray]]:
    batches = view_batches(records, SIZE, views, student, (teacher_logits(records),))
    return [*batches(epochs).as_numpy_iterator()]


@pytest.mark.parametrize("in_memory", [True, False])
def test_epochs_show_every_picture_once_with_its_own_targets(
    records: Records, views: Views, student: Student, monkeypatch: pytest.MonkeyPatch, in_memory: bool
):
    if not in_memory:
        monkeypatch.setattr(training, "CACHE_BYTES", 0)
    expected = np.stack([np.concatenate([*view_images(records, SIZE, views, view)]) for view in range(VIEWS)])
    batches = numbered_batches(records, views, student, range(EPOCHS))
    steps = len(records) // BATCH
    assert len(batches) == EPOCHS * steps
    assert len(records) % BATCH  # so that a remainder is dropped
    orders = []
    for epoch in range(EPOCHS):
        of_epoch = batches[epoch * steps : (epoch + 1) * steps]
        images, targets = (np.concatenate(column) for column in zip(*of_epoch, strict=True))
        label, number, view, third = targets.astype(int).T
        assert targets.dtype == images.dtype == np.float32
        assert len(set(number)) == len(number) == steps * BATCH
        assert np.array_equal(label, records.labels[number])
        assert set(view) == {epoch % VIEWS}
        assert set(third) == {-1}
        np.testing.assert_allclose(images, expected[epoch % VIEWS, number], atol=5e-3)
        orders.append(tuple(number))
    assert len(set(orders)) == EPOCHS


def test_features_stand_behind_the_logits_row_by_row(records: Records, views: Views, student: Student):
    features = np.random.default_rng(0).normal(size=(VIEWS, len(records), 2, 2, 3)).astype(np.float16)
    batches = view_batches(records, SIZE, views, student, (teacher_logits(records), mapped(features)))
    for _, targets in batches(range(1, 2)).as_numpy_iterator():
        assert targets.shape == (BATCH, 1 + CLASSES + 12)
        number = targets[:, 1].astype(int)
        assert np.array_equal(targets[:, 1 + CLASSES :], features[1, number].reshape(BATCH, -1).astype(np.float32))


def test_few_labeled_pictures_fill_an_epoch_with_further_views(views: Views, student: Student, tmp_path: Path):
    splits = stratified_split(random_examples(36, CLASSES, SIZE), ["ant", "bee", "cow"], 0.2, 0.2, seed=0)
    write(tmp_path / "records", splits, ["ant", "bee", "cow"], SIZE, labeled_fraction=0.3)
    labeled = Records(tmp_path / "records", "train", labeled_only=True)
    images = len(splits["train"])
    assert 2 * len(labeled) < images
    expected = np.stack([np.concatenate([*view_images(labeled, SIZE, views, view)]) for view in range(VIEWS)])
    batches = view_batches(labeled, SIZE, views, changed(student, batch_size=1))
    for epoch in (0, 1):
        shown = []
        for (image,), ((label,),) in batches(range(epoch, epoch + 1)).as_numpy_iterator():
            distances = np.abs(expected - image).mean(axis=(2, 3, 4))
            view, number = np.unravel_index(distances.argmin(), distances.shape)
            assert distances[view, number] < 5e-3
            assert label == labeled.labels[number]
            shown.append((number, view))
        copies = [divmod(position, len(labeled)) for position in range(images)]
        assert sorted(shown) == sorted((number, (epoch + copy) % VIEWS) for copy, number in copies)


def test_muon_takes_the_nearest_orthogonal_matrix_of_a_kernels_momentum():
    rng = np.random.default_rng(0)
    kernel = keras.Variable(np.zeros((3, 3, 8, 16), np.float32))
    gradients = rng.normal(size=(2, 3, 3, 8, 16)).astype(np.float32)
    optimizer = training.Muon(0.5, weight_decay=0, adam_weight_decay=0)
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
    ours = training.Muon(0.1).zeropower_via_newtonschulz5(keras.ops.convert_to_tensor(kernel), 5)
    np.testing.assert_allclose(ours, np.reshape(u * s @ v, shape), atol=1e-3)


@pytest.mark.parametrize("shape", [(3, 3, 8, 1), (16, 3), (16,)])
def test_all_but_convolutions_is_trained_by_adamw(shape: tuple[int, ...]):
    rng = np.random.default_rng(0)
    start, *gradients = rng.normal(size=(4, *shape)).astype(np.float32)
    optimizers = [
        training.Muon(0.1, weight_decay=0.3, adam_weight_decay=0.3),
        keras.optimizers.AdamW(0.1, weight_decay=0.3),
    ]
    ends = []
    for optimizer in optimizers:
        variable = keras.Variable(start)
        for gradient in gradients:
            optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        ends.append(variable.numpy())
    np.testing.assert_allclose(*ends, rtol=1e-4, atol=1e-5)


def test_resumed_epochs_show_what_the_undisturbed_ones_would_have(records: Records, views: Views, student: Student):
    steps = len(records) // BATCH
    whole = numbered_batches(records, views, student, range(EPOCHS))
    for start in (1, 2):
        tail = numbered_batches(records, views, student, range(start, EPOCHS))
        for one, other in zip(whole[start * steps :], tail, strict=True):
            assert np.array_equal(one[0], other[0])
            assert np.array_equal(one[1], other[1])


def test_order_depends_on_the_seed_alone(student: Student):
    def order(seed: int, epoch: int) -> list[int]:
        of_range = shuffled_batches(tf.data.Dataset.range(50), 50, 50, changed(student, seed=seed, batch_size=10))
        rows = [*of_range(range(epoch, epoch + 1)).as_numpy_iterator()]
        assert all(number == epoch for *_, number in rows)
        assert all(np.array_equal(batch, positions) for batch, positions, _ in rows)
        return np.concatenate([batch for batch, *_ in rows]).tolist()

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(numbers) == list(range(50)) for numbers in orders)
    assert len(set(map(tuple, orders))) == 4
    assert order(1, 1) == orders[-1]


def test_validation_shows_every_picture_once_in_id_order(validation_records: Records, student: Student):
    batches = [*plain_batches(validation_records, SIZE, 4).as_numpy_iterator()]
    assert [len(images) for images, _ in batches] == [4, 2]
    labels = np.concatenate([labels for _, labels in batches])
    assert labels.shape == (6, 1)
    assert labels[:, 0].tolist() == validation_records.labels.tolist()


def test_history_reports_the_networks_accuracy_and_cross_entropy(
    train: Callable[..., Result], validation_records: Records, student: Student
):
    weights, history = train(epochs=2)
    assert [row["epoch"] for row in history] == [1, 2]
    model = build_student(student, CLASSES)
    model.set_weights(weights)
    images = np.concatenate([images for images, _ in plain_batches(validation_records, SIZE, 6).as_numpy_iterator()])
    logits = model.predict(images, verbose=0).astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = validation_records.labels
    assert history[-1]["validation_accuracy"] == pytest.approx((logits.argmax(axis=1) == labels).mean())
    surprise = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    assert history[-1]["validation_loss"] == pytest.approx(surprise, rel=1e-4)


def test_same_seed_gives_the_same_weights_and_another_gives_others(train: Callable[..., Result]):
    first = train(epochs=1)
    assert_equal(train(epochs=1), first)
    other, _ = train(epochs=1, seed=6)
    assert not all(np.array_equal(mine, theirs) for mine, theirs in zip(first[0], other, strict=True))


def test_alpha_one_trains_to_the_weights_of_training_from_scratch(train: Callable[..., Result], records: Records):
    scratch = train(epochs=2)
    soft_targets = (teacher_logits(records),)
    assert_equal(train(DistillationLoss(CLASSES, 1.0, 4.0), soft_targets, epochs=2), scratch)
    distilled, _ = train(DistillationLoss(CLASSES, 0.5, 4.0), soft_targets, epochs=2)
    assert not all(np.array_equal(mine, theirs) for mine, theirs in zip(scratch[0], distilled, strict=True))


@pytest.mark.parametrize(
    "build",
    [pytest.param(None, id="student, feature maps", marks=pytest.mark.slow), pytest.param(with_dropout, id="dropout")],
)
def test_training_killed_twice_ends_as_the_undisturbed_one(
    train: Callable[..., Result],
    records: Records,
    student: Student,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    build: Callable | None,
):
    soft_targets = [teacher_logits(records)]
    if build is None:
        maps = np.random.default_rng(0).normal(size=(VIEWS, len(records), 2, 2, 3)).astype(np.float16)
        soft_targets.append(mapped(maps))

        def build() -> keras.Model:
            return with_projections(build_student(student, CLASSES), [maps.shape[2:]])

    options = {"build": build, "loss": DistillationLoss(CLASSES, 0.3, 2.0, 5.0), "soft_targets": soft_targets}
    undisturbed = train(**options)
    asked = []
    steps = len(records) // BATCH
    for step in (steps + 2, steps + 1):  # within the second epoch; then, after resuming there, as the third begins
        kill(monkeypatch, step)
        with pytest.raises(Killed):
            train(seen=asked.append, **options)
    revive(monkeypatch)
    options["loss"].fade_hint(0, 3)
    assert_equal(train(seen=asked.append, **options), undisturbed)
    assert float(options["loss"].hint) == pytest.approx(1 / 3)  # as is due to the third epoch, taken up or not
    assert asked == [range(0, 3), range(1, 3), range(2, 3)]
    assert [*(workplace / ".checkpoints").iterdir()] == []  # it has finished


def test_training_killed_after_its_last_epoch_is_not_repeated(train: Callable[..., Result]):
    asked = []
    finished, resumed = (train(epochs=1, seen=asked.append, publishes=publishes) for publishes in (False, True))
    assert asked == [range(0, 1)]
    assert_equal(resumed, finished)


def test_checkpoint_that_does_not_fit_is_not_taken_up(
    train: Callable[..., Result], workplace: Path, monkeypatch: pytest.MonkeyPatch, student: Student
):
    weights, history = train(epochs=1, publishes=False)
    (file,) = (workplace / ".checkpoints").iterdir()
    content = file.read_bytes()
    model = build_student(student, CLASSES)
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 10)  # as in `fit`: a constant rate would be a variable
    model.compile(training.Muon(schedule), "mse")
    untrained = model.get_weights()
    foreign = io.BytesIO()
    np.savez(foreign, weights=np.zeros(3))
    for damaged in (content[: len(content) // 2], content[:-1], content[:3], b"", b"no checkpoint", foreign.getvalue()):
        file.write_bytes(damaged)
        assert Checkpoint("distill").restore(model) == 0
    file.write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "fingerprint", lambda stage: "of other code")
        assert Checkpoint("distill").restore(model) == 0
    assert all(np.array_equal(*pair) for pair in zip(model.get_weights(), untrained, strict=True))
    taken_up = Checkpoint("distill")
    assert taken_up.restore(model) == 1
    assert all(np.array_equal(*pair) for pair in zip(model.get_weights(), weights, strict=True))
    assert taken_up.history[0]["accuracy"] == history[0]["train_accuracy"]


def test_loss_that_is_no_number_ends_the_training(train: Callable[..., Result], records: Records, workplace: Path):
    answers = mapped(np.full_like(teacher_logits(records), np.nan))
    with pytest.raises(InputError, match=r"cross_entropy is nan after epoch 1.*learning_rate"):
        train(DistillationLoss(CLASSES, 0.5), (answers,))
    assert not any(workplace.rglob("*.npz"))


def test_last_step_that_diverges_leaves_no_checkpoint(workplace: Path):
    logs = {"loss": 0.5, "val_cross_entropy": np.inf}  # the loss is a mean over the epoch, which ended before it
    with pytest.raises(InputError, match=r"val_cross_entropy is inf after epoch 3.*learning_rate"):
        Checkpoint("distill").on_epoch_end(2, logs)
    assert not any(workplace.rglob("*.npz"))


def test_batch_larger_than_the_training_split_is_named(train: Callable[..., Result]):
    with pytest.raises(InputError, match="distill: batch_size = 25 is more than the 24 training images"):
        train(batch_size=25)


def test_publishing_writes_weights_history_and_last_metrics(workplace: Path, student: Student):
    model = build_student(student, CLASSES)
    history = [
        {
            "epoch": epoch,
            "train_accuracy": 0.5,
            "validation_accuracy": epoch / 4,
            "train_loss": 1.0,
            "validation_loss": 1.0,
        }
        for epoch in (1, 2)
    ]
    line = publish("distill", "student", model, history)
    assert line == "distill: validation accuracy 0.5000 -> models/student.weights.h5"
    written = sorted(path.relative_to(workplace).as_posix() for path in workplace.rglob("*") if path.is_file())
    assert written == ["metrics/student.json", "models/student.weights.h5", "plots/history/student.json"]
    assert read_json("plots/history/student.json") == history
    assert read_json("metrics/student.json") == {key: value for key, value in history[1].items() if key != "epoch"}
    other = build_student(student, CLASSES)
    other.load_weights("models/student.weights.h5")
    assert all(np.array_equal(*pair) for pair in zip(other.get_weights(), model.get_weights(), strict=True))


def test_equal_weights_give_equal_files(workplace: Path, student: Student):
    contents = []
    for _ in range(2):
        keras.utils.clear_session()  # layers are numbered through a process; a stage is a process of its own
        set_seed(0)
        row = {"epoch": 1, "train_accuracy": 1, "train_loss": 1, "validation_accuracy": 1, "validation_loss": 1}
        publish("distill", "student", build_student(student, CLASSES), [row])
        contents.append(Path("models/student.weights.h5").read_bytes())
    assert contents[0] == contents[1]


def test_fingerprint_covers_what_dvc_makes_the_stage_depend_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("records/deep").mkdir(parents=True)

    def fingerprint(
        command: str = "python a.py",
        code: str = "a",
        data: str = "b",
        name: str = "c",
        alpha: float = 0.1,
        other: int = 1,
    ) -> str:
        stages = {
            "train": {"cmd": command, "deps": ["a.py", "records"], "params": ["distill.alpha"], "outs": ["model"]},
            "other": {"cmd": f"python {other}.py", "deps": [], "params": []},
        }
        Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        Path("params.yaml").write_text(yaml.safe_dump({"distill": {"alpha": alpha, "temperature": other}}))
        Path("a.py").write_text(code)
        for path in Path("records/deep").iterdir():
            path.unlink()
        (Path("records/deep") / name).write_text(data)
        return checkpoint.fingerprint("train")

    first = fingerprint()
    assert fingerprint() == first
    assert fingerprint(other=2) == first
    changes = [{"command": "python b.py"}, {"code": "x"}, {"data": "x"}, {"name": "x"}, {"alpha": 0.2}]
    assert len({first, *(fingerprint(**change) for change in changes)}) == 6

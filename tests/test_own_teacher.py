"""A teacher from one's own file: how it is read, how it is checked, and how the other stages use it.

The files hold classifiers made by hand. They tell dark, grey and light images apart by their mean, which is a matter of
the range that their input is in.
"""

import io
import json
import re
import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from clone import STAGES, Clone
from helpers import changed, encoded, random_examples, write
from keras import layers, ops
from PIL import Image
from ruamel.yaml import YAML

from distillation.data.records import Records
from distillation.data.splits import Example, image_id
from distillation.errors import InputError
from distillation.inference.forward import BATCH, forward_pass, plain_images
from distillation.inference.published import (
    FLOOR,
    RANGES,
    LiteRTTeacher,
    Reading,
    costs,
    load_trained,
    save_litert,
    scaled,
)
from distillation.networks.network import load_network
from distillation.params import Params, Teacher
from distillation.training import own_teacher
from distillation.training.own_file import open_own
from distillation.training.own_teacher import SAMPLE, _as_yaml, certain_permutation, no_better_than_chance, take_own
from studies import ladder

SIZE, CLASSES = 32, ["dark", "grey", "light"]
LEVELS = np.array([40, 128, 215])


def brightness(
    input_range: str, order: tuple[int, ...] = (0, 1, 2), activation: str | None = None, size: int | None = SIZE
) -> keras.Model:
    """A classifier of images in `input_range`, whose output number i is for class `order[i]`.

    It compares the mean m of an image with each level c: -(m - c)² = 2 c m - c² and what all classes share. Beside it
    there is a backbone with feature maps, to which it gives no weight.
    """
    grey = np.broadcast_to(LEVELS[list(order), None, None, None], (3, 1, 1, 3))
    levels = scaled(grey, input_range).mean(axis=(1, 2, 3))
    black, white = (np.mean(end) for end in RANGES[input_range])
    sharpness = 60 / (white - black) ** 2
    inner = x = keras.Input((size, size, 3))
    for _ in range(5):
        x = layers.Conv2D(4, 3, 2, padding="same")(x)
    backbone = keras.Model(inner, x, name="backbone")
    image = keras.Input((size, size, 3))
    turned = keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.1)], name="turned")(image)
    features = layers.GlobalAveragePooling2D()(backbone(turned, training=False))
    mean = layers.GlobalAveragePooling2D()(image)
    head = layers.Dense(3, activation=activation)
    network = keras.Model(image, head(layers.Dropout(0.2)(layers.Concatenate()([mean, features]))))
    kernel = np.zeros((7, 3))
    kernel[:3] = 2 * sharpness * levels / 3
    head.set_weights([kernel, -sharpness * levels**2])
    return network


def to_litert(network: keras.Model, ends: tf.DType | None = None, input_range: str = "0..255") -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    if ends is not None:
        levels = np.linspace(0, 255, 30)[:, None, None, None, None]
        images = [scaled(np.broadcast_to(level, (1, SIZE, SIZE, 3)), input_range) for level in levels]
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = ends
    return converter.convert()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 images of three classes: 12 to train on, and 60 for validation."""
    rng, examples = np.random.default_rng(0), []
    for number in range(72):
        level = LEVELS[number % 3] + rng.integers(-20, 21)
        pixels = np.clip(level + rng.integers(-15, 16, (SIZE, SIZE, 1)), 0, 255).repeat(3, axis=2)
        jpeg = encoded(Image.fromarray(pixels.astype(np.uint8)), "JPEG", quality=95)
        examples.append(Example(image_id(jpeg), number % 3, f"image {number}", jpeg))
    path = tmp_path_factory.mktemp("own") / "records"
    splits = {"train": examples[:12], "validation": examples[12:], "test": examples[:12]}
    write(path, splits, CLASSES, SIZE)
    return path


@pytest.fixture
def take(directory: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that makes a network, or a file's content, the teacher, and returns the published one and its row."""
    monkeypatch.chdir(tmp_path)
    train, validation = (Records(split, directory=directory) for split in ("train", "validation"))

    def taken(network: keras.Model | bytes, **values: object) -> tuple[keras.Model | LiteRTTeacher, dict]:
        if isinstance(network, bytes):
            Path("own.tflite").write_bytes(network)
        else:
            network.save("own.keras")
        file = "own.tflite" if isinstance(network, bytes) else "own.keras"
        teacher = changed(params.teacher, **{"file": file, "image_size": SIZE} | values)
        (row,) = take_own(teacher, train, validation)
        return load_trained("models/teacher"), row

    return taken


@pytest.fixture
def images(directory: Path) -> np.ndarray:
    return np.concatenate([*plain_images(Records("train", directory=directory), SIZE).as_numpy_iterator()])


def probabilities(logits: np.ndarray) -> np.ndarray:
    return np.asarray(ops.softmax(logits))


@pytest.mark.parametrize("input_range", RANGES)
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_keras_file_is_taken_as_it_is(take, images: np.ndarray, input_range: str, activation: str | None):
    network = brightness(input_range, activation=activation)
    teacher, row = take(network, input_range=input_range)
    assert row["validation_accuracy"] == row["train_accuracy"] == 1
    found, expected = teacher.predict(images, verbose=0), network.predict(scaled(images, input_range), verbose=0)
    if activation == "softmax":
        np.testing.assert_allclose(probabilities(found["logits"]), expected, atol=1e-5)
    else:
        np.testing.assert_allclose(found["logits"], expected, atol=1e-3)
    assert {name: values.shape for name, values in found.items()} == {
        "logits": (12, 3),
        "middle_map": (12, 2, 2, 4),
        "last_map": (12, 1, 1, 4),
    }
    assert teacher.count_params() == network.count_params()


def test_a_file_that_leaves_its_size_open_takes_that_of_the_parameters(take):
    teacher, row = take(brightness("0..255", size=None), image_size=64)
    assert teacher.input_shape == (None, 64, 64, 3)
    assert row["validation_accuracy"] == 1
    assert teacher.output["middle_map"].shape[1:] == (4, 4, 4)


def test_a_file_whose_preprocessing_is_arithmetic_keeps_its_maps(take, images: np.ndarray):
    """Keras names the file's own operations, such as `subtract`, as it would those that are added."""
    image = keras.Input((SIZE, SIZE, 3))
    x = ops.subtract(1.0, ops.cast(ops.maximum(ops.log(ops.add(image, 1.0)), 0.0), "float32"))
    for _ in range(5):
        x = layers.Conv2D(4, 3, 2, padding="same")(x)
    x = ops.concatenate([layers.GlobalAveragePooling2D()(x), layers.GlobalAveragePooling2D()(image)], axis=-1)
    head = layers.Dense(3, activation="softmax")
    network = keras.Model(image, head(x))
    kernel = np.zeros((7, 3))
    kernel[4:] = 2 * LEVELS / 3
    head.set_weights([kernel * 60 / 255**2, -(LEVELS**2) * 60 / 255**2])
    keras.backend.clear_session()  # names begin anew, as in another process
    teacher, row = take(network)
    assert row["validation_accuracy"] == 1
    assert set(teacher.output) == {"logits", "middle_map", "last_map"}
    expected = network.predict(images, verbose=0)
    np.testing.assert_allclose(probabilities(teacher.predict(images, verbose=0)["logits"]), expected, atol=1e-5)
    assert costs(teacher)["macs"] == 16 * 16 * 27 * 4 + (64 + 16 + 4 + 1) * 36 * 4 + 7 * 3


def test_layers_may_have_the_names_of_those_that_are_added(take, images: np.ndarray):
    """And those of networks within the file may be alike: then it is not taken apart, and has no feature maps."""
    network = brightness("0..1")
    image = x = keras.Input((SIZE, SIZE, 3), name="image")
    for name in ("input_range", "cast", "rescaling", "conv2d", "middle_map_components"):
        x = layers.Identity(name=name)(x)
    teacher, row = take(keras.Model(image, network(x)), input_range="0..1")
    assert row["validation_accuracy"] == 1
    assert set(teacher.output) == {"logits"}
    expected = network.predict(scaled(images, "0..1"), verbose=0)
    np.testing.assert_allclose(teacher.predict(images, verbose=0)["logits"], expected, atol=1e-3)


def test_names_that_meet_in_a_file_of_open_size_are_refused(take):
    image = keras.Input((None, None, 3), name="image")
    inner = brightness("0..255", size=None)
    with pytest.raises(InputError, match="All operation names should be unique"):
        take(keras.Model(image, inner(layers.Identity(name=inner.layers[-1].name)(image))))


def test_equal_files_are_published_with_equal_bytes(take):
    network = brightness("0..1")
    published = []
    for _ in range(2):
        keras.backend.clear_session()  # names begin anew, as in another process
        take(network, input_range="0..1")
        published.append({path.name: path.read_bytes() for path in Path("models/teacher").iterdir()})
    assert published[0] == published[1]


def test_sequential_file_and_one_sigmoid(tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    network = keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), layers.Rescaling(1 / 255), layers.GlobalAveragePooling2D(), layers.Dense(1)]
    )
    network.layers[-1].set_weights([np.full((3, 1), 10.0), np.array([-15.0])])
    for activation in ("sigmoid", "linear"):
        network.layers[-1].activation = keras.activations.get(activation)
        network.save("one.keras")
        file = open_own("one.keras", SIZE)
        reading = Reading("0..255", activation == "sigmoid", file.floor, [0, 1])
        file.publish(reading, Path("models/one"))
        logits = load_network("models/one").predict(images, verbose=0)["logits"]
        expected = 30 * images.mean(axis=(1, 2, 3)) / 255 - 15
        np.testing.assert_allclose(logits[:, 1] - logits[:, 0], expected, atol=0.02)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_litert_file_is_taken_as_it_is(take, images: np.ndarray, activation: str | None):
    network = brightness("-1..1", activation=activation)
    teacher, row = take(to_litert(network), input_range="-1..1")
    assert row["validation_accuracy"] == 1
    found, expected = teacher(images)["logits"], network.predict(scaled(images, "-1..1"), verbose=0)
    if activation == "softmax":
        found = probabilities(found)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.array_equal(forward_pass(teacher)(images)["logits"], teacher(images)["logits"])
    convolutions, head = 16 * 16 * 27 * 4 + (64 + 16 + 4 + 1) * 36 * 4, 7 * 3
    assert costs(teacher)["macs"] in (head, convolutions + head)  # the converter may see that they have no weight
    assert costs(teacher)["parameters"] <= network.count_params()


@pytest.mark.parametrize(("ends", "input_range"), [(tf.uint8, "0..255"), (tf.uint8, "-1..1"), (tf.int8, "-1..1")])
def test_quantised_litert_file_says_its_range(take, ends: tf.DType, input_range: str):
    content = to_litert(brightness(input_range, activation="softmax"), ends, input_range)
    _, row = take(content, input_range="0..1")
    assert row["validation_accuracy"] >= 0.95
    assert np.isfinite(row["validation_loss"])
    assert json.loads(Path("models/teacher/settings.json").read_text())["input_range"] == input_range


def test_litert_file_with_channels_first(take):
    network = brightness("imagenet")
    image = keras.Input((3, SIZE, SIZE))
    content = to_litert(keras.Model(image, network(layers.Permute((2, 3, 1))(image))))
    assert take(content, input_range="imagenet")[1]["validation_accuracy"] == 1


def test_order_of_classes_is_read_from_a_litert_files_labels(take):
    content = to_litert(brightness("0..255", order=(2, 0, 1)))
    labels = io.BytesIO()
    with zipfile.ZipFile(labels, "w") as archive:
        archive.writestr("labels.txt", "light\ndark\ngrey\n")
    assert take(content + labels.getvalue())[1]["validation_accuracy"] == 1


@pytest.mark.parametrize(
    ("right", "wrong"), [("0..1", "0..255"), ("-1..1", "0..255"), ("imagenet", "0..1"), ("0..255", "0..1")]
)
def test_wrong_range_is_named(take, right: str, wrong: str):
    with pytest.raises(InputError, match=r"read otherwise: set teacher\.input_range to '([^']*)'$") as caught:
        take(brightness(right), input_range=wrong)
    named = str(caught.value).split("'")[-2]
    assert take(brightness(right), input_range=named)[1]["validation_accuracy"] >= 0.9


def test_another_order_of_classes_is_named(take):
    network = brightness("0..255", order=(2, 0, 1))
    with pytest.raises(InputError, match=r'set teacher\.classes to \["light", "dark", "grey"\]$'):
        take(network)
    assert not Path("models/teacher").exists()
    _, row = take(network, classes=["light", "dark", "grey"])
    assert row["validation_accuracy"] == 1
    with pytest.raises(InputError, match=r'set teacher\.classes to \["light", "dark", "grey"\]$'):
        take(network, classes=["dark", "light", "grey"])
    with pytest.raises(InputError, match=r"""'-1..1' and teacher\.classes to \["light", "dark", "grey"\]$"""):
        take(brightness("-1..1", order=(2, 0, 1)), input_range="0..255")


@pytest.mark.parametrize("of_each", [1, 3, 12])
def test_order_of_many_classes_is_named_only_where_it_is_sure(of_each: int):
    classes, rng = 100, np.random.default_rng(0)
    labels, order = np.repeat(np.arange(classes), of_each), rng.permutation(classes)
    guesses = np.argsort(order)[labels]
    assert certain_permutation(guesses, labels, classes).tolist() == order.tolist()
    wrong = rng.random(len(labels)) < 0.1
    guesses[wrong] = rng.integers(0, classes, wrong.sum())
    found = certain_permutation(guesses, labels, classes)
    assert found.tolist() == order.tolist() if of_each == 12 else found is None
    assert certain_permutation(guesses[labels > 0], labels[labels > 0], classes) is None


def test_names_of_classes_can_be_put_into_yaml_as_they_are_named():
    names = ["1", "1e5", "no", "0o7", "a, b", 'say "no"', "Bär", "light", "x" * 200]
    for load in (yaml.safe_load, YAML(typ="safe").load):  # YAML 1.1 and 1.2
        assert load(f"classes: {_as_yaml(names)}") == {"classes": names}


def test_classes_that_are_not_those_of_the_data_are_named(take):
    with pytest.raises(InputError, match=r'\.classes = \["dark", "grey", "bright"\], should be .*: dark, grey, light'):
        take(brightness("0..255"), classes=["dark", "grey", "bright"])


def linear(kernel: np.ndarray, bias: np.ndarray) -> keras.Model:
    image = keras.Input((SIZE, SIZE, 3))
    head = layers.Dense(kernel.shape[1])
    network = keras.Model(image, head(layers.GlobalAveragePooling2D()(image)))
    head.set_weights([kernel, bias])
    return network


@pytest.mark.parametrize(
    ("ok", "defect", "missed", "is_chance"),
    [
        (243, 13, 5, False),  # 98.0 % right, where 94.9 % are of one class
        (253, 3, 1, False),
        (27, 3, 1, False),
        (5, 5, 1, False),
        (27, 3, 0, False),
        (3, 3, 0, False),
        (243, 13, 13, True),  # it says "ok" to all
        (27, 3, 3, True),
    ],
)
def test_chance_is_what_guesses_of_these_classes_would_give(ok: int, defect: int, missed: int, is_chance: bool):
    """Few or uneven images don't make a good teacher one of chance, nor one that always gives the larger class good."""
    labels = np.repeat([0, 1], [ok, defect])
    guesses = np.repeat([0, 1, 0], [ok, defect - missed, missed])
    assert no_better_than_chance(guesses, labels) is is_chance


@pytest.mark.parametrize(("validation", "train"), [(60, 12), (30, 200), (300, 12)])
def test_few_validation_images_are_joined_by_training_images_for_the_check(tmp_path: Path, validation: int, train: int):
    """A class of which validation has one image, say, can't be told from chance otherwise."""
    examples = random_examples(validation + train, len(CLASSES), SIZE)
    write(tmp_path, {"validation": examples[:validation], "train": examples[validation:]}, CLASSES, SIZE)
    splits = [Records(split, directory=tmp_path) for split in ("validation", "train")]
    images, labels = own_teacher._sample(SIZE, *splits)
    everything = np.concatenate([records.labels for records in splits])
    assert len(labels) >= SAMPLE or len(labels) == validation + train
    assert sum(map(len, images)) == len(labels) < SAMPLE + BATCH
    assert labels.tolist() == everything[: len(labels)].tolist()


@pytest.mark.parametrize(
    ("network", "problem"),
    [
        (linear(np.zeros((3, 3)), np.arange(3)), "is right on 24 of 72 images, which is chance"),
        (linear(np.full((3, 3), np.nan), np.zeros(3)), "answers some images with NaN or infinity"),
        (linear(np.zeros((3, 5)), np.zeros(5)), "answers 5 numbers, should answer one for each of 3 classes"),
        (linear(np.zeros((3, 1)), np.zeros(1)), "answers 1 numbers, should answer"),
    ],
    ids=["chance", "NaN", "five classes", "one output"],
)
def test_teacher_that_cannot_teach_these_classes_is_refused(take, network: keras.Model, problem: str):
    for form in (network, to_litert(network)):
        with pytest.raises(InputError, match=problem):
            take(form)
        assert not Path("models/teacher").exists()


@keras.saving.register_keras_serializable("tests")
class Custom(layers.Layer):
    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x


def refused() -> dict[str, keras.Model]:
    image = keras.Input((SIZE, SIZE, 3))
    flat = layers.GlobalAveragePooling2D()(image)
    grey = keras.Input((SIZE, SIZE, 1))
    return {
        "lambda": keras.Model(image, layers.Lambda(lambda x: x * 2)(flat)),
        "two outputs": keras.Model(image, [flat, flat * 2]),
        "two inputs": keras.Model([image, grey], layers.Add()([image, grey])),
        "grey": keras.Model(grey, layers.Flatten()(grey)),
        "a map": keras.Model(image, layers.Conv2D(3, 1)(image)),
        "oblong": keras.Model(oblong := keras.Input((SIZE, 40, 3)), layers.GlobalAveragePooling2D()(oblong)),
    }


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("lambda", "it has a Lambda layer, whose code is not run"),
        ("two outputs", "1 inputs and 2 outputs, should have one each"),
        ("two inputs", "2 inputs and 1 outputs, should have one each"),
        ("grey", r"takes \(32, 32, 1\), should take one square image in RGB"),
        ("a map", r"answers \(32, 32, 3\) for each image, should be one number for each class"),
        ("oblong", r"takes \(32, 40, 3\), should take one square image"),
    ],
)
def test_networks_that_are_no_classifiers_of_images_are_refused(take, kind: str, problem: str):
    with pytest.raises(InputError, match=rf"teacher\.file = 'own\.keras' cannot be used: .*{problem}") as caught:
        take(refused()[kind])
    assert "\n" not in str(caught.value)


def test_layers_that_keras_does_not_know_are_refused(take, tmp_path: Path):
    image = keras.Input((SIZE, SIZE, 3))
    keras.Model(image, Custom()(layers.GlobalAveragePooling2D()(image))).save("own.keras")
    with pytest.raises(InputError, match=r"'own\.keras' cannot be used: it has Custom, which Keras lacks: convert it"):
        open_own("own.keras", SIZE)


@pytest.mark.parametrize("name", ["own.keras", "own.tflite"])
def test_broken_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"teacher\.file = '{name}' is no file"):
        open_own(name, SIZE)
    network = linear(np.ones((3, 3)), np.zeros(3))
    network.save("whole.keras")
    whole = Path("whole.keras").read_bytes() if name == "own.keras" else to_litert(network)
    for content in (b"", b"no network", *(whole[: len(whole) * share // 5] for share in range(1, 5))):
        Path(name).write_bytes(content)
        with pytest.raises(InputError, match=rf"teacher\.file = '{name}' cannot be used: ") as caught:
            open_own(name, SIZE)
        assert "\n" not in str(caught.value)


def test_the_front_measures_a_litert_teacher_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    content = to_litert(linear(np.ones((3, 3)), np.zeros(3)))
    save_litert(content, Reading("0..255", False, FLOOR, [0, 1, 2]), "models/teacher")
    measured = ladder.measure([])
    assert list(measured) == ["teacher"]
    assert measured["teacher"]["bytes"] == len(content)
    assert measured["teacher"]["milliseconds"] > 0


def test_litert_file_of_open_size_is_refused(take):
    image = keras.Input((None, None, 3))
    with pytest.raises(InputError, match="it leaves the size of its input open: convert it with a fixed one"):
        take(to_litert(keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(image)))))


def test_litert_file_for_several_images_is_refused(take):
    image = keras.Input(batch_shape=(2, SIZE, SIZE, 3))
    with pytest.raises(InputError, match="takes 2 images at a time, should take one"):
        take(to_litert(keras.Model(image, layers.GlobalAveragePooling2D()(image))))


@pytest.mark.parametrize("file", ["own.h5", "own", "own.pt"])
def test_other_kinds_of_files_are_refused(file: str):
    with pytest.raises(ValueError, match=r"the path of a \.keras or \.tflite file, or models/README\.md for none"):
        Teacher(file=file)


@pytest.fixture
def copy(clone: Clone, tmp_path: Path) -> Clone:
    """A copy of `clone`, whose teacher a test may change."""
    copy = Clone(tmp_path / "copy")
    shutil.copytree(clone.path, copy.path)
    return copy


@pytest.mark.slow
def test_readme_takes_ones_own_teacher(copy: Clone):
    brightness("0..255").save(copy.path / "my_classifier.keras")
    (commands,) = re.findall(r"^## Your own teacher\n.*?^(cp .*?)```", Path("README.md").read_text(), re.S | re.M)
    done = copy.run("bash", "-euc", commands)
    assert copy.ran(done) == {*STAGES} - {"prepare", "train_scratch"}
    metrics = copy.metrics()["teacher"]
    assert metrics["accuracy"] > 0.8
    assert metrics["parameters"] > 0
    assert metrics["macs"] > 0
    history = json.loads((copy.path / "plots/history/student_distilled.json").read_text())
    assert all(row["objective_features"] > 0 for row in history)


@pytest.mark.slow
def test_the_pipeline_runs_with_a_litert_file(copy: Clone):
    file = copy.path / "models/own.tflite"
    file.write_bytes(to_litert(brightness("-1..1")))
    copy.set_params(teacher={"file": "models/own.tflite"})
    failed = copy.run("dvc", "repro", check=False)
    assert "set teacher.input_range to '-1..1'" in failed.stdout + failed.stderr
    copy.set_params(teacher={"input_range": "-1..1"})
    assert copy.ran(copy.run("dvc", "repro")) == {*STAGES} - {"prepare", "train_scratch"}
    assert copy.metrics()["teacher"]["accuracy"] > 0.8
    history = json.loads((copy.path / "plots/history/student_distilled.json").read_text())
    assert all(row["objective_features"] == 0 for row in history)
    file.write_bytes(to_litert(brightness("-1..1", activation="softmax")))  # another file: what follows runs again
    assert copy.ran(copy.run("dvc", "repro", "train_teacher")) == {"train_teacher"}
    assert {"cache_teacher_logits", "evaluate"} <= json.loads(copy.run("dvc", "status", "--json").stdout).keys()

"""The cache of the teacher's answers: how its parts are written, read and made."""

import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import Payload, changed
from keras import layers

from distillation import resume
from distillation.data.records import Records
from distillation.errors import InputError
from distillation.inference import answers, components
from distillation.inference.answers import ANSWERS, Answers, forecast, part_path, whole_parts, write_parts
from distillation.inference.components import with_components
from distillation.inference.forward import BATCH, Arrays, plain_images, view_images
from distillation.networks.network import MAPS, save_network, select
from distillation.networks.students import build_student
from distillation.networks.teachers import build_teacher
from distillation.params import Params
from stages import cache_teacher_logits
from studies import naive_cache

VIEWS, IMAGES, CLASSES = 6, 24, 3  # of the records: 144 answers, 4 batches and a half
TWO_BATCHES = 2 * BATCH


class Killed(Exception):
    """Replaces the end of the process."""


@pytest.fixture
def set_part(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that sets the number of answers in a part."""

    def to(answers_in_a_part: int) -> None:
        monkeypatch.setattr(answers, "PART", answers_in_a_part)
        monkeypatch.setattr(cache_teacher_logits, "PART", answers_in_a_part)

    return to


def numbered(count: int) -> Arrays:
    """Answers whose values encode their number."""
    numbers = np.arange(count)
    return {
        "logits": np.stack([numbers, -numbers], axis=1).astype(np.float32),
        "last_map": np.broadcast_to((numbers % 2048)[:, None, None, None], (count, 1, 2, 3)).astype(np.float16),
    }


def batched(arrays: Arrays) -> Iterator[Arrays]:
    for start in range(0, len(arrays["logits"]), BATCH):
        yield {name: values[start : start + BATCH] for name, values in arrays.items()}


def in_order(values: tf.data.Dataset, name: str) -> np.ndarray:
    return np.stack([row[name] for row in values.as_numpy_iterator()])


def test_a_part_is_whole_batches():
    assert answers.PART % BATCH == 0


@pytest.mark.parametrize("count", [1, 32, 63, 64, 65, 128, 150])
def test_parts_hold_consecutive_answers_and_the_last_one_what_is_left(
    tmp_path: Path, set_part: Callable[[int], None], count: int
):
    set_part(TWO_BATCHES)
    written = numbered(count)
    write_parts(tmp_path / "answers", 0, batched(written))
    parts = sorted((tmp_path / "answers").iterdir())
    assert [path.name for path in parts] == [f"part-{number:05d}" for number in range(-(-count // 64))]
    for name, dtype in {"logits": np.float32, "last_map": np.float16}.items():
        arrays = [np.load(path / f"{name}.npy") for path in parts]
        assert {array.dtype for array in arrays} == {np.dtype(dtype)}
        assert [len(array) for array in arrays] == [64] * (count // 64) + [count % 64] * (count % 64 > 0)
        assert np.array_equal(np.concatenate(arrays), written[name])
    assert {path.name for path in (tmp_path / "answers").rglob("*.*")} == {"logits.npy", "last_map.npy"}


def test_parts_may_be_made_apart(tmp_path: Path, set_part: Callable[[int], None]):
    set_part(TWO_BATCHES)
    written = numbered(150)
    write_parts(tmp_path / "at once", 0, batched(written))
    for first in (2, 0, 1):
        own = {name: values[first * 64 : (first + 1) * 64] for name, values in written.items()}
        write_parts(tmp_path / "apart", first, batched(own))
    assert contents(tmp_path / "apart") == contents(tmp_path / "at once")


def test_logits_are_kept_exactly_and_maps_to_half_precision(tmp_path: Path):
    rng = np.random.default_rng(0)
    written = {"logits": rng.normal(size=(5, 3)).astype(np.float32), "last_map": rng.normal(size=(5, 2, 2, 4))}
    write_parts(tmp_path, 0, [written])
    assert np.array_equal(np.load(tmp_path / "part-00000/logits.npy"), written["logits"])
    assert np.array_equal(np.load(tmp_path / "part-00000/last_map.npy"), written["last_map"].astype(np.float16))


def test_what_ends_within_a_part_leaves_the_whole_ones_alone(tmp_path: Path, set_part: Callable[[int], None]):
    set_part(TWO_BATCHES)

    def interrupted() -> Iterator[Arrays]:
        for number, batch in enumerate(batched(numbered(200))):
            if number == 5:
                raise Killed
            yield batch

    with pytest.raises(Killed):
        write_parts(tmp_path / "answers", 0, interrupted())
    assert sorted(path.name for path in (tmp_path / "answers").iterdir()) == ["part-00000", "part-00001"]


def test_part_that_cannot_be_written_is_not_there(
    tmp_path: Path, set_part: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
):
    set_part(TWO_BATCHES)
    save, saved = np.save, []

    def full_disk(file: object, array: np.ndarray) -> None:
        saved.append(array)
        if len(saved) == 4:  # of the second part, the first array was written
            raise OSError("No space left on device")
        save(file, array)

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_parts(tmp_path / "answers", 0, batched(numbered(150)))
    assert [path.name for path in (tmp_path / "answers").iterdir()] == ["part-00000"]


@pytest.mark.parametrize("part", [BATCH, TWO_BATCHES, 100 * BATCH])
@pytest.mark.parametrize(("views", "images"), [(6, 24), (4, 70), (3, 64), (2, 128), (1, 33), (70, 1)])
def test_answers_to_a_view_come_in_id_order_wherever_parts_end(
    tmp_path: Path, set_part: Callable[[int], None], part: int, views: int, images: int
):
    set_part(part)
    written = numbered(views * images)
    write_parts(tmp_path, 0, batched(written))
    cache = Answers(views, images, tmp_path)
    assert cache.shapes == {"logits": (2,), "last_map": (1, 2, 3)}
    for view in {0, 1 % views, views // 2, views - 1}:
        of_view = slice(view * images, (view + 1) * images)
        for names in (["logits"], ["last_map", "logits"]):
            dataset = cache.dataset(tf.constant(view, tf.int64), names)
            assert set(dataset.element_spec) == set(names)
            for name in names:
                assert dataset.element_spec[name].shape == cache.shapes[name]
                assert np.array_equal(in_order(dataset, name), written[name][of_view])
    numbers = tf.data.Dataset.range(views).flat_map(lambda view: cache.dataset(view, ["logits"]))  # as training does
    assert np.array_equal(in_order(numbers, "logits"), written["logits"])


def test_only_what_is_wanted_of_a_view_is_read(tmp_path: Path, set_part: Callable[[int], None]):
    set_part(TWO_BATCHES)
    written = numbered(4 * 70)
    write_parts(tmp_path, 0, batched(written))
    cache = Answers(4, 70, tmp_path)
    wanted = {tmp_path / f"part-0000{number}/logits.npy" for number in (2, 3)}  # view 2: answers 140 to 209
    for path in set(tmp_path.rglob("*.npy")) - wanted:
        path.unlink()
    found = in_order(cache.dataset(tf.constant(2, tf.int64), ["logits"]), "logits")
    assert np.array_equal(found, written["logits"][140:210])


def test_part_that_a_power_cut_left_broken_is_made_again(tmp_path: Path, set_part: Callable[[int], None]):
    set_part(TWO_BATCHES)
    assert whole_parts(tmp_path) == 0
    write_parts(tmp_path, 0, batched(numbered(144)))
    assert whole_parts(tmp_path) == 3
    for content in (b"", (part_path(tmp_path, 1) / "logits.npy").read_bytes()[:-1]):
        (part_path(tmp_path, 1) / "logits.npy").write_bytes(content)
        assert whole_parts(tmp_path) == 1


@pytest.mark.parametrize("part", range(3))
def test_parts_that_are_missing_broken_or_foreign_are_named(tmp_path: Path, set_part: Callable[[int], None], part: int):
    set_part(TWO_BATCHES)
    write_parts(tmp_path / "answers", 0, batched(numbered(144)))
    whole, folder = tmp_path / "whole", part_path(tmp_path / "answers", part)
    shutil.move(tmp_path / "answers", whole)
    length = {0: 64, 1: 64, 2: 16}[part]

    def complaint(harm: Callable[[], None]) -> str:
        shutil.rmtree(tmp_path / "answers", ignore_errors=True)
        shutil.copytree(whole, tmp_path / "answers")
        harm()
        with pytest.raises(InputError, match="run `dvc repro`") as caught:
            Answers(6, 24, tmp_path / "answers")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert complaint(lambda: shutil.rmtree(folder)).startswith(f"{folder}/last_map.npy cannot be read")
    for name, values in numbered(length).items():
        file = folder / f"{name}.npy"
        assert complaint(file.unlink).startswith(f"{file} cannot be read")
        content = (whole / folder.name / f"{name}.npy").read_bytes()
        for other in (b"", content[:50], content[:-1], b"no array", pickle.dumps(Payload())):
            assert complaint(lambda file=file, other=other: file.write_bytes(other)).startswith(f"{file} cannot be")
        for array in (values[1:], np.concatenate([values, values[:1]]), np.float32(3)):
            message = complaint(lambda file=file, array=array: np.save(file, array))
            assert message.startswith(f"{file} has {array.dtype} of shape {array.shape}, should have ")
        message = complaint(lambda file=file, values=values: np.save(file, values.astype(int)))
        assert message.startswith(f"{file} has values of type int64, should have floats")
    with pytest.raises(InputError, match=r"nowhere/part-00000/logits\.npy cannot be read"):
        Answers(6, 24, tmp_path / "nowhere")


def test_output_that_one_part_alone_has_is_missing_from_the_others(tmp_path: Path, set_part: Callable[[int], None]):
    set_part(TWO_BATCHES)
    write_parts(tmp_path, 0, batched(numbered(144)))
    np.save(tmp_path / "part-00001/middle_map.npy", np.zeros((64, 1, 1, 1), np.float16))
    with pytest.raises(InputError, match=r"part-00000/middle_map\.npy cannot be read"):
        Answers(6, 24, tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def teacher(params: Params) -> keras.Model:
    """A small network with random weights and the outputs of a teacher."""
    keras.utils.set_random_seed(0)
    network = build_student(changed(params.student, image_size=32, channels=[4, 8]), CLASSES)
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(np.ones(layer.gamma.shape))
    return network


@pytest.fixture
def workplace(
    records_directory: Path,
    teacher: keras.Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    set_part: Callable[[int], None],
) -> Path:
    """A folder that looks to the stage like the repository; two batches make a part."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resume, "fingerprint", lambda stage: f"of {stage}")
    set_part(TWO_BATCHES)
    shutil.copytree(records_directory, "data/records")
    save_network(teacher, "models/teacher")
    return tmp_path


@pytest.fixture
def small(params: Params) -> Params:
    return params.model_copy(update={"distill": changed(params.distill, feature_channels=4)})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images in each batch that the teacher answered."""
    sizes, original = [], cache_teacher_logits.predictions

    def counted(forward: Callable, images: tf.data.Dataset, label: str) -> Iterator[Arrays]:
        for batch in original(forward, images, label):
            sizes.append(len(batch["logits"]))
            yield batch

    monkeypatch.setattr(cache_teacher_logits, "predictions", counted)
    return sizes


def kill(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """End the stage after the teacher has answered so many batches, as a kill would."""
    original = cache_teacher_logits.predictions

    def predictions(*arguments: object) -> Iterator[Arrays]:
        for number, batch in enumerate(original(*arguments)):
            if number == batches:
                raise Killed
            yield batch

    monkeypatch.setattr(cache_teacher_logits, "predictions", predictions)


def test_every_view_of_every_image_is_answered_in_view_and_id_order(
    workplace: Path, small: Params, teacher: keras.Model
):
    line = cache_teacher_logits.main(small)
    assert line == "cache_teacher_logits: 6 views of 24 images -> data/teacher_answers"
    assert set(contents(ANSWERS)) == {
        f"part-0000{number}/{name}.npy" for number in range(3) for name in ("logits", *MAPS)
    }
    cache = Answers(VIEWS, IMAGES)
    assert cache.shapes == {"logits": (3,), "middle_map": (16, 16, 1), "last_map": (8, 8, 4)}
    assert cache.dtypes == {"logits": np.float32, "middle_map": np.float16, "last_map": np.float16}
    images = np.concatenate([*view_images(Records("train"), 32, small.views, VIEWS)])
    expected = select(teacher, "logits").predict(images, verbose=0)["logits"].reshape(VIEWS, IMAGES, CLASSES)
    for view in range(VIEWS):
        found = in_order(cache.dataset(tf.constant(view, tf.int64), ["logits"]), "logits")
        np.testing.assert_allclose(found, expected[view], rtol=1e-4, atol=1e-4)
    assert not np.allclose(expected[0], expected[1], atol=1e-2)
    assert [*resume.DIRECTORY.iterdir()] == []


@pytest.mark.parametrize("batches", range(5))
def test_killed_within_a_part_it_goes_on_after_the_last_whole_one(
    workplace: Path, small: Params, monkeypatch: pytest.MonkeyPatch, asked: list[int], batches: int
):
    cache_teacher_logits.main(small)
    undisturbed = contents(ANSWERS)
    shutil.rmtree(ANSWERS)
    with monkeypatch.context() as patch:
        kill(patch, batches)
        with pytest.raises(Killed):
            cache_teacher_logits.main(small)
    assert not ANSWERS.exists()
    folder, whole = resume.unfinished(cache_teacher_logits.STAGE), batches // 2
    assert sorted(path.name for path in folder.glob("*")) == [f"part-0000{number}" for number in range(whole)]
    (folder / f".partial-part-0000{whole}").mkdir(parents=True)  # what SIGKILL leaves of a part
    (folder / f".partial-part-0000{whole}/logits.npy").write_bytes(b"half")
    asked.clear()
    cache_teacher_logits.main(small)
    assert asked == [32, 32, 32, 32, 16][2 * whole :]
    assert contents(ANSWERS) == undisturbed
    assert [*resume.DIRECTORY.iterdir()] == []


def test_killed_when_all_was_answered_it_does_not_ask_again(
    workplace: Path, small: Params, monkeypatch: pytest.MonkeyPatch, asked: list[int]
):
    def end(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(cache_teacher_logits, "replacing", end)
        with pytest.raises(Killed):
            cache_teacher_logits.main(small)
    assert asked == [32, 32, 32, 32, 16]
    assert not ANSWERS.exists()
    cache_teacher_logits.main(small)
    assert len(asked) == 5
    Answers(VIEWS, IMAGES)


def test_parts_of_other_parameters_code_or_data_are_not_taken_up(
    workplace: Path, small: Params, monkeypatch: pytest.MonkeyPatch, asked: list[int]
):
    with monkeypatch.context() as patch:
        patch.setattr(resume, "fingerprint", lambda stage: "other")
        kill(patch, 3)
        with pytest.raises(Killed):
            cache_teacher_logits.main(small)
    assert len([*resume.DIRECTORY.glob("*/part-*")]) == 1
    asked.clear()
    cache_teacher_logits.main(small)
    assert asked == [32, 32, 32, 32, 16]
    assert [*resume.DIRECTORY.iterdir()] == []


def test_earlier_answers_are_replaced_as_a_whole(workplace: Path, small: Params):
    write_parts(ANSWERS, 0, batched(numbered(300)))
    cache_teacher_logits.main(small)
    assert sorted(path.name for path in ANSWERS.iterdir()) == ["part-00000", "part-00001", "part-00002"]
    assert sorted(path.name for path in Path("data").iterdir()) == ["records", "teacher_answers"]
    Answers(VIEWS, IMAGES)


def test_of_a_teacher_without_maps_there_are_logits_alone(workplace: Path, small: Params, teacher: keras.Model):
    save_network(select(teacher, "logits"), "models/teacher")
    cache_teacher_logits.main(small)
    assert Answers(VIEWS, IMAGES).shapes == {"logits": (3,)}


def test_answers_in_int8_are_near_those_in_float32_and_the_same_every_time(workplace: Path, small: Params):
    """Each output has 255 levels, and the ranges come from the same images: the error is a few per cent."""
    cache_teacher_logits.main(small)
    exact = {path.name: [] for path in ANSWERS.glob("part-00000/*.npy")}
    for path in sorted(ANSWERS.glob("part-*/*.npy")):
        exact[path.name].append(np.load(path))
    in_int8 = small.model_copy(update={"teacher": changed(small.teacher, answers="int8")})
    cache_teacher_logits.main(in_int8)
    before = contents(ANSWERS)
    for name, arrays in exact.items():
        found = np.concatenate([np.load(path) for path in sorted(ANSWERS.glob(f"part-*/{name}"))]).astype(float)
        expected = np.concatenate(arrays).astype(float)
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98, name
        assert not np.array_equal(found, expected), name
    cache_teacher_logits.main(in_int8)
    assert contents(ANSWERS) == before


def test_teacher_whose_logits_int8_destroys_is_refused(workplace: Path, small: Params, teacher: keras.Model):
    """Large weights in the last layer cancel each other, but int8 rounds all others to 0."""
    image = keras.Input(teacher.input_shape[1:], name="image")
    colour = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    logits = select(teacher, "logits")(image)["logits"]
    last = keras.layers.Dense(3)
    network = keras.Model(image, {"logits": last(keras.layers.Concatenate()([logits, colour, colour]))}, name="teacher")
    large = np.full((3, 3), 1e4)
    last.set_weights([np.concatenate([np.eye(3), large, -large]), np.zeros(3)])
    save_network(network, "models/teacher")
    cache_teacher_logits.main(small)
    before = contents(ANSWERS)
    problem = r"teacher\.answers = int8, should be float32: its logits in int8 explain \d+ % of the variance"
    with pytest.raises(InputError, match=problem):
        cache_teacher_logits.main(small.model_copy(update={"teacher": changed(small.teacher, answers="int8")}))
    assert contents(ANSWERS) == before


def test_what_litert_cannot_convert_answers_in_keras_and_not_in_int8(
    workplace: Path, small: Params, teacher: keras.Model, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("CI", raising=False)
    side = teacher.input_shape[1]
    image = keras.Input((side, side, 3), name="image")
    resized = keras.layers.Resizing(side, side, antialias=True)(keras.layers.Resizing(side + 1, side + 1)(image))
    network = keras.Model(image, {"logits": select(teacher, "logits")(resized)["logits"]}, name="teacher")
    save_network(network, "models/teacher")
    cache_teacher_logits.main(small)
    assert "teacher runs in Keras, since LiteRT cannot convert it" in capsys.readouterr().err
    images = [*view_images(Records("train"), side, small.views, 1).as_numpy_iterator()]
    expected = np.concatenate([network.predict_on_batch(batch)["logits"] for batch in images])
    np.testing.assert_allclose(np.load(part_path(ANSWERS, 0) / "logits.npy")[: len(expected)], expected, atol=1e-4)
    before = contents(ANSWERS)
    with pytest.raises(InputError, match=r"teacher\.answers = int8, should be float32: LiteRT cannot convert"):
        cache_teacher_logits.main(small.model_copy(update={"teacher": changed(small.teacher, answers="int8")}))
    assert contents(ANSWERS) == before


@pytest.mark.parametrize(("most", "batches"), [(10**9, 3), (2 * 32 * 4 * 64, 2), (1, 1)])
def test_components_are_found_from_no_more_maps_than_memory_holds(
    monkeypatch: pytest.MonkeyPatch, most: int, batches: int
):
    monkeypatch.setattr(components, "MOST_BYTES", most)
    image, asked = keras.Input((32, 32, 3), name="image"), []
    middle = keras.layers.Conv2D(8, 16, 16)(image)  # 2 x 2 x 8
    last = keras.layers.Conv2D(32, 2)(middle)  # 1 x 1 x 32: 64 values together
    logits = keras.layers.Dense(3)(keras.layers.Flatten()(last))
    network = keras.Model(image, {"logits": logits, "middle_map": middle, "last_map": last})
    original = components.predict

    def counted(forward: Callable, images: tf.data.Dataset, label: str) -> Arrays:
        asked.append(len(images))
        return original(forward, images, label)

    monkeypatch.setattr(components, "predict", counted)
    sample = tf.data.Dataset.from_tensor_slices(np.random.default_rng(0).random((96, 32, 32, 3), np.float32)).batch(32)
    components.with_components(network, sample, 4, "sample")
    assert asked == [batches]


def principal_components(maps: np.ndarray, channels: int) -> np.ndarray:
    """(places, channels) of `maps` (images, height, width, channels), scaled together to unit mean square."""
    places = maps.reshape(-1, maps.shape[-1]).astype(np.float64)
    _, _, axes = np.linalg.svd(places - places.mean(axis=0), full_matrices=False)
    components = (places - places.mean(axis=0)) @ axes[:channels].T
    return components / np.sqrt(np.mean(components**2))


def assert_components(found: Sequence[np.ndarray], maps: np.ndarray, channels: int, tolerance: float) -> None:
    # A component's sign is free.
    found, expected = np.reshape(found, (-1, channels)), principal_components(maps, channels)
    np.testing.assert_allclose(abs(found), abs(expected), rtol=tolerance, atol=tolerance)
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, rtol=tolerance, atol=2 * tolerance)


def test_feature_maps_are_replaced_by_their_principal_components(
    teacher: keras.Model, records: Records, params: Params
):
    sample = view_images(records, 32, params.views, 1)
    images = np.concatenate([*sample])
    compressed = with_components(teacher, sample, 8, "test")
    assert set(compressed.output) == {"logits", *MAPS}
    found, whole = compressed.predict(images, verbose=0), teacher.predict(images, verbose=0)
    np.testing.assert_allclose(found["logits"], whole["logits"], rtol=1e-4, atol=1e-4)
    for name, channels in (("middle_map", 2), ("last_map", 8)):
        assert found[name].shape[:-1] == whole[name].shape[:-1]
        assert_components(found[name], whole[name], channels, 2e-3)


def test_teachers_layers_may_have_any_names(records: Records, params: Params):
    image = keras.Input((32, 32, 3), name="image")
    middle_map = layers.Conv2D(8, 3, 2, name="conv2d")(image)
    last_map = layers.Conv2D(8, 3, 2, name="conv2d_1")(middle_map)
    logits = layers.GlobalAveragePooling2D()(last_map)
    teacher = keras.Model(image, {"logits": logits, "middle_map": middle_map, "last_map": last_map})
    keras.backend.clear_session()  # as in another process
    teacher = with_components(teacher, view_images(records, 32, params.views, 1), 8, "test")
    assert {name: output.shape[-1] for name, output in teacher.output.items()} == {
        "logits": 8,
        "middle_map": 2,
        "last_map": 8,
    }


def test_more_components_than_channels_are_refused(teacher: keras.Model, records: Records, params: Params):
    sample = view_images(records, 32, params.views, 1)
    with pytest.raises(InputError, match=r"feature_channels = 12, should be at most 8: the 24 .* of 8 channels"):
        with_components(teacher, sample, 12, "test")
    with pytest.raises(InputError, match=r"feature_channels = 20, should be at most 16: .* of 4 channels"):
        with_components(teacher, sample, 20, "test")


@pytest.mark.slow
def test_cached_feature_maps_are_the_principal_components_of_mobilenets(params: Params, workplace: Path):
    mobilenet = build_teacher(changed(params.teacher, image_size=64), CLASSES)
    for layer in mobilenet.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0  # statistics that fit at once: without them the activations vanish
    mobilenet(np.random.default_rng(0).uniform(0, 255, (16, 64, 64, 3)), training=True)
    save_network(mobilenet, "models/teacher")
    distill = changed(params.distill, feature_channels=8)
    cache_teacher_logits.main(params.model_copy(update={"distill": distill}))
    cache = Answers(VIEWS, IMAGES)
    images = np.concatenate([*view_images(Records("train"), 64, params.views, 1)])
    for name, layer, side, channels in (("last_map", "out_relu", 2, 8), ("middle_map", "block_12_add", 4, 2)):
        maps = keras.Model(mobilenet.input, mobilenet.get_layer(layer).output).predict(images, verbose=0)
        assert cache.shapes[name] == (side, side, channels)
        assert cache.dtypes[name] == np.float16
        assert_components(in_order(cache.dataset(tf.constant(0, tf.int64), [name]), name), maps, channels, 0.02)


def test_naive_cache_answers_the_plain_image_in_place_of_every_view(
    workplace: Path, small: Params, teacher: keras.Model
):
    naive_cache.answer_plain_images(small)
    plain = teacher.predict(plain_images(Records("train"), 32), verbose=0)
    cache = Answers(VIEWS, IMAGES)
    assert cache.shapes == {"logits": (3,), "middle_map": (16, 16, 1), "last_map": (8, 8, 4)}
    of_views = {name: in_order(cache.dataset(tf.constant(0, tf.int64), [name]), name) for name in cache.shapes}
    np.testing.assert_allclose(of_views["logits"], plain["logits"], rtol=1e-4, atol=1e-4)
    for view in range(1, VIEWS):
        for name, values in of_views.items():
            assert np.array_equal(in_order(cache.dataset(tf.constant(view, tf.int64), [name]), name), values)


def test_forecast_is_of_what_the_answers_will_take(monkeypatch: pytest.MonkeyPatch):
    """One answer: 3 logits in float32 and a map of 2 x 2 x 5 values in float16, which is 52 bytes."""
    images = tf.data.Dataset.from_tensor_slices(np.zeros((200, 4, 4, 3), np.float32)).batch(BATCH)

    def forward(batch: np.ndarray) -> dict[str, np.ndarray]:
        return {"logits": np.zeros((len(batch), 3), np.float32), "last_map": np.zeros((len(batch), 2, 2, 5))}

    assert forecast(forward, images, 20_000_000).startswith("20,000,000 answers, 1.0 GB, about ")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**10, 0, 2 * 52 * 1000))
    assert forecast(forward, images, 1000) == "1,000 answers, 0.1 MB, about 1 min"
    with pytest.raises(InputError, match=r"1,001 answers take 0\.0 GB, .* are free on the disk: make room"):
        forecast(forward, images, 1001)

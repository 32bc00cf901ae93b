"""Networks: published sizes, a hand-counted one, and LiteRT against Keras."""

import io
import math
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from helpers import Payload, changed
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from distillation import student as students
from distillation.errors import InputError
from distillation.inference import BATCH, forward_pass, plain_images, predict, to_litert, view_images
from distillation.litert import Network
from distillation.models import load_weights, macs
from distillation.params import Params, load_params
from distillation.records import Records, decode
from distillation.student import MAP, build_student
from distillation.teacher import HEAD, build_teacher
from distillation.views import augmented, plain
from presets import naive_cache
from stages import cache_teacher_logits, export


@pytest.fixture(scope="module")
def preset() -> Params:
    return load_params("presets/cats_vs_dogs.yaml")


@pytest.fixture(scope="module")
def small(params: Params) -> keras.Model:
    """A student whose every weight and BatchNorm statistic is random."""
    keras.utils.set_random_seed(0)
    model = build_student(changed(params.student, image_size=32, channels=[4, 8], blocks=2), 3)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            gamma, beta, mean, variance = (weight.shape for weight in layer.get_weights())
            layer.set_weights(
                [
                    rng.uniform(0.5, 2, gamma),
                    rng.normal(size=beta),
                    rng.normal(size=mean),
                    rng.uniform(0.5, 2, variance),
                ]
            )
        elif getattr(layer, "bias", None) is not None:
            layer.set_weights([layer.get_weights()[0], rng.normal(size=layer.bias.shape)])
    return model


@pytest.fixture
def workplace(records_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that looks to a stage like the repository before the teacher is there."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(records_directory, "data/records")
    Path("models").mkdir()


@pytest.fixture(scope="module")
def forward(small: keras.Model):
    return forward_pass(small)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, (count, 32, 32, 3)).astype(np.float32)


def test_macs_of_a_network_counted_by_hand():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, 2, padding="same")(inputs)  # 4 * 4 places * 3 * 3 * 3 * 4
    x = layers.BatchNormalization()(x)
    x = layers.DepthwiseConv2D(3, padding="same")(x)  # 4 * 4 * 3 * 3 * 4
    x = layers.Conv2D(5, 1)(x)  # 4 * 4 * 4 * 5
    x = layers.Conv2D(5, (2, 3))(layers.ReLU()(x))  # valid: 3 * 2 * 2 * 3 * 5 * 5
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))  # 5 * 2
    assert macs(model) == 16 * 108 + 16 * 36 + 16 * 20 + 6 * 150 + 10


def test_full_mobilenet_has_the_published_size(preset: Params):
    """Sandler et al. (2018), table 4: 300 million multiply-adds at 224 px and width 1."""
    teacher = build_teacher(changed(preset.teacher, width=1.0, image_size=224), 2)
    assert teacher.count_params() - teacher.get_layer(HEAD).count_params() == 2_257_984
    assert teacher.get_layer(HEAD).count_params() == 1280 * 2 + 2
    classifier_of_1000 = 1280 * (1000 - 2)
    assert macs(teacher) + classifier_of_1000 == pytest.approx(300e6, rel=0.01)


def test_narrow_mobilenet_has_the_known_size(params: Params):
    teacher = build_teacher(changed(params.teacher, width=0.35, image_size=32), 3)
    assert teacher.count_params() == 410_208 + 1280 * 3 + 3
    assert teacher.output_shape == (None, 3)


def test_preset_student_is_ten_times_smaller_than_its_teacher(preset: Params):
    student, teacher = build_student(preset.student, 2), build_teacher(preset.teacher, 2)
    assert student.count_params() <= 226_000
    assert macs(student) <= 30e6
    assert teacher.count_params() >= 10 * student.count_params()
    assert macs(teacher) >= 5 * macs(student)


@pytest.mark.parametrize(
    ("size", "stem_stride", "channels", "blocks"),
    [(32, 2, [4, 8], 1), (32, 1, [4, 8], 1), (48, 4, [4, 8, 8], 2), (33, 2, [3, 5, 7], 1)],
)
def test_student_halves_its_map_in_every_stage(
    params: Params, size: int, stem_stride: int, channels: list[int], blocks: int
):
    values = {"image_size": size, "stem_stride": stem_stride, "channels": channels, "blocks": blocks}
    model = build_student(changed(params.student, **values), 5)
    maps = [model.get_layer(f"{MAP}{number}").output.shape[1:] for number in range(len(channels))]
    assert maps == [(-(-size // (stem_stride * 2**n)),) * 2 + (c,) for n, c in enumerate(channels)]
    assert model.output_shape == (None, 5)


def test_residual_pairs_start_as_their_shortcuts(params: Params):
    """Their last normalisation starts with a scale of zero: what comes before it cannot matter yet."""
    model = build_student(changed(params.student, image_size=32, channels=[4, 8, 8], blocks=2), 3)
    before = model(pictures(2)).numpy()
    ends = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization) and not np.any(layer.gamma)]
    assert len(ends) == 4  # two stages of two pairs
    for end in ends:
        convolution = end.input._keras_history.operation
        convolution.set_weights([10 + weight for weight in convolution.get_weights()])
    np.testing.assert_allclose(model(pictures(2)), before, atol=1e-6)


@pytest.mark.parametrize(
    "shapes",
    [[], [(8, 8, 5)], [(8, 8, 5), (16, 16, 2)], [(3, 3, 2), (5, 5, 1)]],
    ids=["none", "last", "last two", "resized"],
)
def test_projections_pack_the_feature_maps_behind_the_same_logits(small: keras.Model, shapes: list[tuple]):
    extended = students.with_projections(small, shapes)
    packed = extended(pictures(2)).numpy()
    assert packed.shape == (2, 3 + sum(map(math.prod, shapes)))
    logits, *parts = np.split(packed, np.cumsum([3, *map(math.prod, shapes)])[:-1], axis=1)
    np.testing.assert_allclose(logits, small(pictures(2)), rtol=1e-5, atol=1e-5)
    projections = [each for each in extended.layers if isinstance(each, layers.Conv2D) and each not in small.layers]
    for number, (part, (height, width, channels)) in enumerate(zip(parts, shapes, strict=True)):
        [(kernel, bias)] = [each.get_weights() for each in projections if each.filters == channels]
        features = keras.Model(small.input, small.get_layer(f"{MAP}{1 - number}").output)(pictures(2)).numpy()
        expected = tf.image.resize(features, (height, width)) @ kernel[0, 0] + bias
        np.testing.assert_allclose(part, np.reshape(expected, (2, -1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 5])
def test_litert_equals_keras_for_batches_of_any_size(small: keras.Model, forward, count: int):
    expected = small.predict(pictures(count), verbose=0)
    assert expected.std() > 0.1
    found = forward(pictures(count))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


def test_forward_pass_keeps_its_first_answers(forward):
    first = forward(pictures(3))
    kept = first.copy()
    forward(pictures(3, seed=1))
    assert np.array_equal(first, kept)


def test_predict_keeps_the_order_of_the_pictures(forward):
    batches = tf.data.Dataset.from_tensor_slices(pictures(BATCH + 7)).batch(BATCH)
    found = predict(forward, batches, "test")
    np.testing.assert_allclose(found, forward(pictures(BATCH + 7)), atol=1e-5)


def test_litert_file_of_one_picture_and_of_whole_numbers_equals_keras(small: keras.Model):
    def int8(converter: tf.lite.TFLiteConverter) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([picture[None]] for picture in pictures(20))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.uint8

    expected = small.predict(pictures(5), verbose=0)
    np.testing.assert_allclose(forward_pass(to_litert(small))(pictures(5)), expected, atol=1e-4, rtol=1e-4)
    quantised = forward_pass(to_litert(small, int8))(pictures(5))
    assert quantised.dtype == np.float32
    assert np.abs(quantised - expected).max() < 0.15 * (expected.max() - expected.min())


def test_threads_may_share_a_network(small: keras.Model):
    network, images = Network(to_litert(small)), pictures(64)
    expected = network(images)
    with ThreadPoolExecutor(8) as threads:
        answers = [*threads.map(network, [images] * 32)]
    for answer in answers:
        np.testing.assert_array_equal(answer, expected)


def test_litert_file_for_several_pictures_at_a_time_is_refused():
    several = keras.Sequential([keras.Input(batch_shape=(2, 4)), layers.Dense(1)])
    with pytest.raises(ValueError, match="takes 2 pictures at a time"):
        Network(tf.lite.TFLiteConverter.from_keras_model(several).convert())


def test_whole_numbers_of_the_input_are_those_of_the_pixels_even_if_no_picture_is_bright(small: keras.Model):
    dim = tf.data.Dataset.from_tensors(pictures(20) / 4)
    content = to_litert(small, export.variants(dim)["int8"])
    (source,) = Interpreter(model_content=content).get_input_details()
    assert source["dtype"] == np.uint8
    assert source["quantization"] == (1.0, 0)


def test_images_for_inference_are_the_views_in_id_order(records: Records, params: Params):
    size = records.manifest.image_size
    decoded = [decode(serialised, size)["image"] for serialised in records.dataset()]
    seen = np.concatenate([*plain_images(records, 32).as_numpy_iterator()])
    np.testing.assert_allclose(seen, plain(tf.stack(decoded), 32), atol=1e-3)
    seen = np.concatenate([*view_images(records, 32, params.views, 3).as_numpy_iterator()])
    expected = augmented(tf.stack(decoded), records.ids.astype(bytes), 3, 32, params.views)
    np.testing.assert_allclose(seen, expected, atol=1e-3)


def test_weights_come_back(small: keras.Model, params: Params, tmp_path: Path):
    small.save_weights(tmp_path / "a.weights.h5")
    keras.utils.set_random_seed(1)
    other = build_student(changed(params.student, image_size=32, channels=[4, 8], blocks=2), 3)
    assert not np.allclose(other(pictures(2)), small(pictures(2)))
    assert load_weights(other, tmp_path / "a.weights.h5") is other
    for mine, theirs in zip(other.get_weights(), small.get_weights(), strict=True):
        assert np.array_equal(mine, theirs)


@pytest.mark.filterwarnings("ignore::UserWarning:keras")
@pytest.mark.parametrize(
    "values", [{"channels": [4, 6]}, {"channels": [4, 8, 8]}, {"blocks": 1}, {"blocks": 3}], ids=str
)
def test_weights_of_another_student_are_refused(small: keras.Model, params: Params, tmp_path: Path, values: dict):
    small.save_weights(tmp_path / "a.weights.h5")
    other = build_student(changed(params.student, **{"image_size": 32, "channels": [4, 8], "blocks": 2} | values), 3)
    with pytest.raises(InputError, match=r"a\.weights\.h5 does not hold the weights of this student"):
        load_weights(other, tmp_path / "a.weights.h5")


def foreign_contents() -> dict[str, bytes]:
    """Files that are none of weights, by kind."""
    contents = {"empty": b"", "text": b"no weights", "pickle": pickle.dumps(Payload())}
    for kind, save in {"npy": np.save, "npz": np.savez}.items():
        file = io.BytesIO()
        save(file, np.array([Payload()]), allow_pickle=True)
        contents[kind] = file.getvalue()
    file = io.BytesIO()
    with h5py.File(file, "w") as other:
        other["array"] = np.zeros(3)
    return contents | {"h5": file.getvalue()}


def refusal(model: keras.Model, path: Path) -> str:
    with pytest.raises(InputError, match=r"a\.weights\.h5") as caught:
        load_weights(model, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning:keras")
def test_missing_and_foreign_weights_are_refused(small: keras.Model, tmp_path: Path):
    path = tmp_path / "a.weights.h5"
    refusal(small, path)
    for content in foreign_contents().values():
        path.write_bytes(content)
        refusal(small, path)


@settings(max_examples=40)
@given(st.data())
def test_truncated_weights_are_refused(
    small: keras.Model, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    path = tmp_path_factory.getbasetemp() / "a.weights.h5"
    small.save_weights(path)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    refusal(small, path)


@pytest.mark.parametrize("content", [None, b"no weights", pickle.dumps(Payload())], ids=["missing", "text", "pickle"])
def test_pretrained_weights_that_cannot_be_had_are_named(params: Params, tmp_path: Path, content: bytes | None):
    path = tmp_path / "backbone.weights.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"teacher\.weights = .*backbone\.weights\.h5"):
        build_teacher(changed(params.teacher, image_size=32), 2, str(path))


def test_pretrained_weights_fill_the_backbone(params: Params, tmp_path: Path):
    keras.utils.set_random_seed(0)
    backbone = keras.applications.MobileNetV2(
        input_shape=(32, 32, 3), alpha=0.35, include_top=False, weights=None, pooling="avg"
    )
    backbone.save_weights(tmp_path / "backbone.weights.h5")
    teacher = build_teacher(changed(params.teacher, image_size=32), 2, str(tmp_path / "backbone.weights.h5"))
    for mine, theirs in zip(teacher.get_weights()[:-2], backbone.get_weights(), strict=True):
        assert np.array_equal(mine, theirs)
    picture = pictures(1)
    expected = backbone(picture / 127.5 - 1).numpy()  # MobileNetV2 expects -1..1
    seen = keras.Model(teacher.input, teacher.get_layer(HEAD).input)(picture).numpy()
    assert expected.std() > 0
    np.testing.assert_allclose(seen / expected.std(), expected / expected.std(), atol=1e-3)


@pytest.mark.slow
def test_naive_cache_answers_the_plain_picture_in_place_of_every_view(params: Params, workplace: None):
    small = changed(params.teacher, image_size=32)
    teacher = build_teacher(small, 3)
    teacher.save_weights("models/teacher.weights.h5")
    distill = changed(params.distill, feature_channels=4)
    naive_cache.answer_plain_pictures(params.model_copy(update={"teacher": small, "distill": distill}))
    records = Records("data/records", "train")
    expected = np.concatenate([teacher(images) for images in plain_images(records, 32)])
    answers = np.load("data/teacher_logits.npy")
    assert answers.shape == (params.views.count, len(records), 3)
    for view in answers:
        np.testing.assert_allclose(view, expected, atol=1e-4)


@pytest.mark.slow
def test_cached_feature_maps_are_the_principal_components_of_the_teachers(params: Params, workplace: None):
    small = changed(params.teacher, image_size=64)
    teacher = build_teacher(small, 3)
    for layer in teacher.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0  # statistics that fit at once: without them the activations vanish
    teacher(np.random.default_rng(0).uniform(0, 255, (16, 64, 64, 3)), training=True)
    teacher.save_weights("models/teacher.weights.h5")
    distill = changed(params.distill, feature_channels=8)
    cache_teacher_logits.main(params.model_copy(update={"teacher": small, "distill": distill}))
    records = Records("data/records", "train")
    for name, side, channels in (("out_relu", 2, 8), ("block_12_add", 4, 2)):
        network = keras.Model(teacher.input, teacher.get_layer(name).output)
        maps = np.concatenate([network(images) for images in view_images(records, 64, params.views, 0)])
        places = maps.reshape(-1, maps.shape[-1])
        _, _, axes = np.linalg.svd(places - places.mean(axis=0), full_matrices=False)
        expected = (places - places.mean(axis=0)) @ axes[:channels].T
        expected /= np.sqrt(np.mean(expected**2))
        cached = np.load(f"data/teacher_features/{name}.npy")
        assert cached.shape == (params.views.count, len(records), side, side, channels)
        assert cached.dtype == np.float16
        # A component's sign is free.
        np.testing.assert_allclose(abs(cached[0]).reshape(-1, channels), abs(expected), rtol=0.02, atol=0.02)

"""Networks: published sizes, a hand-counted one, files of networks, and LiteRT against Keras."""

import io
import pickle
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

from distillation import preset as presets
from distillation.data import views as viewing
from distillation.data.records import Records, decode
from distillation.data.views import augmented, plain
from distillation.errors import InputError
from distillation.inference.forward import (
    BATCH,
    Forward,
    forward_pass,
    in_int8,
    plain_images,
    predict,
    predictions,
    to_litert,
    view_images,
)
from distillation.inference.litert import Network
from distillation.networks.network import CONFIGURATION, MAPS, WEIGHTS, load_network, macs, save_network, select
from distillation.networks.students import STUDENTS, build_student, with_projections
from distillation.networks.teachers import HEAD, build_teacher
from distillation.params import Params
from stages import export

OUTPUTS = {"logits", *MAPS}


def shapes(network: keras.Model) -> dict[str, tuple]:
    """The shape of each output by name, without the batch."""
    return {name: tuple(output.shape[1:]) for name, output in network.output.items()}


@pytest.fixture(scope="module")
def preset() -> Params:
    return presets.complete("cats_vs_dogs")


@pytest.fixture(scope="module")
def small(params: Params) -> keras.Model:
    """A student whose every weight and BatchNorm statistic is random."""
    keras.utils.set_random_seed(0)
    return randomised(build_student(changed(params.student, image_size=32, channels=[4, 8], blocks=2), 3))


def randomised(model: keras.Model) -> keras.Model:
    """`model` with random statistics, scales and biases, which would start as zeros and ones."""
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


@pytest.fixture(scope="module")
def forward(small: keras.Model) -> Forward:
    return forward_pass(small)


def images(count: int, seed: int = 0) -> np.ndarray:
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
    teacher = build_teacher(changed(preset.teacher, weights=None, width=1.0, image_size=224), 2)
    assert teacher.count_params() - teacher.get_layer(HEAD).count_params() == 2_257_984
    assert teacher.get_layer(HEAD).count_params() == 1280 * 2 + 2
    classifier_of_1000 = 1280 * (1000 - 2)
    assert macs(teacher) + classifier_of_1000 == pytest.approx(300e6, rel=0.01)


def test_narrow_mobilenet_has_the_known_size(params: Params):
    teacher = build_teacher(changed(params.teacher, width=0.35, image_size=32), 3)
    assert teacher.count_params() == 410_208 + 1280 * 3 + 3
    assert shapes(teacher)["logits"] == (3,)


@pytest.mark.parametrize("size", [32, 96])
def test_maps_of_mobilenet_are_at_a_16th_and_a_32nd_of_the_images_side(params: Params, size: int):
    teacher = build_teacher(changed(params.teacher, width=0.35, image_size=size), 3)
    assert teacher.input.name == "image"
    assert shapes(teacher) == {
        "logits": (3,),
        "middle_map": (size // 16, size // 16, 32),
        "last_map": (size // 32, size // 32, 1280),
    }
    outputs = teacher(np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)))
    kernel, bias = teacher.get_layer(HEAD).get_weights()
    expected = np.mean(outputs["last_map"], axis=(1, 2)) @ kernel + bias
    np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-4, atol=1e-6)


def test_mobilenet_without_weights_is_ready_to_be_trained(params: Params):
    """Its residual blocks start as their shortcuts, and moving statistics settle within a small run."""
    teacher = build_teacher(changed(params.teacher, width=0.35, image_size=32), 3)
    names = {layer.name for layer in teacher.layers}
    normalisations = [layer for layer in teacher.layers if isinstance(layer, layers.BatchNormalization)]
    closed = {layer.name for layer in normalisations if not np.any(layer.gamma)}
    ends = {name.removesuffix("_add") + "_project_BN" for name in names if name.endswith("_add")}
    assert closed == ends
    assert len(ends) == 10
    assert {layer.momentum for layer in normalisations} == {0.9}


def test_preset_student_is_ten_times_smaller_than_its_teacher(preset: Params):
    student = build_student(preset.student, 2)
    teacher = build_teacher(changed(preset.teacher, weights=None), 2)
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
    network = build_student(changed(params.student, **values), 5)
    maps = [(-(-size // (stem_stride * 2**n)),) * 2 + (c,) for n, c in enumerate(channels)]
    after_activations = [layer.output.shape[1:] for layer in network.layers if isinstance(layer, layers.ReLU)]
    assert [shape for shape in dict.fromkeys(after_activations) if shape in maps] == maps
    assert shapes(network) == {"logits": (5,), "middle_map": maps[-2], "last_map": maps[-1]}
    assert network.input.name == "image"


def test_students_logits_are_read_from_the_mean_of_its_last_map(small: keras.Model):
    outputs = small(images(2))
    kernel, bias = small.layers[-1].get_weights()
    assert min(np.min(outputs[name]) for name in MAPS) == 0  # both stand behind an activation
    np.testing.assert_allclose(
        outputs["logits"], np.mean(outputs["last_map"], axis=(1, 2)) @ kernel + bias, rtol=1e-4, atol=1e-4
    )


def test_resnet8_has_the_published_size(params: Params):
    """Banbury et al., "MLPerf Tiny benchmark" (2021), for CIFAR-10: 78,666 parameters, 12.5 million operations."""
    sizes = {"image_size": 32, "stem_stride": 1, "channels": [16, 32, 64], "blocks": 1}
    network = build_student(changed(params.student, network="resnet8", **sizes), 10)
    assert network.count_params() == 78_666
    assert macs(network) == 12_501_632
    assert shapes(network) == {"logits": (10,), "middle_map": (16, 16, 32), "last_map": (8, 8, 64)}


def test_inverted_residual_counted_by_hand(params: Params):
    sizes = {"image_size": 32, "stem_stride": 2, "channels": [8, 12], "blocks": 2, "expansion": 3}
    network = build_student(changed(params.student, network="inverted_residual", **sizes), 5)

    def normalised(values: int, channels: int) -> int:
        return values + 4 * channels

    def block(wide: int, begin: int, end: int) -> int:
        excitation = wide * (wide // 4) + wide // 4 + (wide // 4) * wide + wide
        ends = normalised(begin * wide, wide) + normalised(wide * end, end)
        return ends + normalised(9 * wide, wide) + excitation

    stem, widened, head = normalised(9 * 3 * 8, 8), normalised(12 * 36, 36), 36 * 5 + 5
    assert network.count_params() == stem + block(24, 8, 12) + block(36, 12, 12) + widened + head
    assert shapes(network) == {"logits": (5,), "middle_map": (16, 16, 8), "last_map": (8, 8, 36)}


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
@pytest.mark.parametrize("name", STUDENTS)
def test_every_student_has_its_maps_where_teachers_are_matched(params: Params, name: str, stem_stride: int):
    values = {"network": name, "image_size": 33, "stem_stride": stem_stride, "channels": [3, 5, 7], "blocks": 2}
    found = shapes(build_student(changed(params.student, **values), 4))
    sides = [-(-33 // (stem_stride * 2**stage)) for stage in (1, 2)]
    assert found["logits"] == (4,)
    assert found["middle_map"] == (sides[0], sides[0], 5)
    assert found["last_map"][:2] == (sides[1], sides[1])


@pytest.mark.parametrize("name", STUDENTS)
def test_every_student_becomes_a_file_of_whole_numbers(params: Params, name: str):
    values = {"network": name, "image_size": 32, "channels": [8, 8, 16]}
    keras.utils.set_random_seed(0)
    student = randomised(build_student(changed(params.student, **values), 3))
    network = keras.Model(student.input, {"probabilities": layers.Softmax()(student.output["logits"])})
    batches = tf.data.Dataset.from_tensor_slices(images(96)).batch(32)
    content = to_litert(network, export.variants(batches)["int8"])
    details = Interpreter(model_content=content).get_tensor_details()
    assert not [tensor["name"] for tensor in details if np.issubdtype(tensor["dtype"], np.floating)]
    (expected,), (found,) = network(images(16)).values(), forward_pass(content)(images(16)).values()
    expected = np.asarray(expected)
    assert expected.std() > 0.05
    assert np.abs(found - expected).mean() < 0.1 * expected.std() + 0.02


def test_residual_pairs_start_as_their_shortcuts(params: Params):
    """Their last normalisation starts with a scale of zero: what comes before it cannot matter yet."""
    network = build_student(changed(params.student, image_size=32, channels=[4, 8, 8], blocks=2), 3)
    before = network(images(2))
    ends = [each for each in network.layers if isinstance(each, layers.BatchNormalization) and not np.any(each.gamma)]
    assert len(ends) == 4  # two stages of two pairs
    for end in ends:
        convolution = end.input._keras_history.operation
        convolution.set_weights([10 + weight for weight in convolution.get_weights()])
    for name, values in network(images(2)).items():
        np.testing.assert_allclose(values, before[name], atol=1e-6)


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"last_map": (8, 8, 5)},
        {"last_map": (8, 8, 5), "middle_map": (16, 16, 2)},
        {"last_map": (3, 3, 2), "middle_map": (5, 5, 1)},
        {"last_map": (9, 9, 2), "middle_map": (18, 18, 1)},
        {"middle_map": (16, 16, 4)},
    ],
    ids=["none", "last", "both", "reduced", "enlarged", "middle"],
)
def test_projections_bring_the_feature_maps_to_shape_and_leave_the_logits(small: keras.Model, wanted: dict):
    extended = with_projections(small, wanted)
    assert extended.input.name == "image"
    outputs, before = extended(images(2)), small(images(2))
    assert shapes(extended) == {"logits": (3,), **wanted}
    np.testing.assert_allclose(outputs["logits"], before["logits"], rtol=1e-5, atol=1e-5)
    projections = [each for each in extended.layers if isinstance(each, layers.Conv2D) and each not in small.layers]
    assert len(projections) == len(wanted)
    for name, (height, width, channels) in wanted.items():
        [(kernel, bias)] = [each.get_weights() for each in projections if each.filters == channels]
        expected = tf.image.resize(before[name], (height, width)) @ kernel[0, 0] + bias
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-4, atol=1e-4)


def test_training_with_projections_trains_the_student_itself(small: keras.Model):
    extended = with_projections(small, {"last_map": (8, 8, 5)})
    held = {id(variable) for variable in extended.variables}
    assert {id(variable) for variable in small.variables} <= held


def test_selected_outputs_are_those_of_the_whole(small: keras.Model):
    whole = small(images(2))
    for names in (["logits"], ["last_map", "middle_map"], ["middle_map"]):
        part = select(small, *names)(images(2))
        assert set(part) == set(names)
        for name in names:
            np.testing.assert_allclose(part[name], whole[name], rtol=1e-6, atol=1e-6)
    assert len(select(small, "middle_map").layers) < len(small.layers)  # only the needed layers are kept


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 5])
def test_litert_equals_keras_for_batches_of_any_size(small: keras.Model, forward: Forward, count: int):
    expected = small.predict(images(count), verbose=0)
    found = forward(images(count))
    assert set(found) == OUTPUTS
    for name, values in found.items():
        assert expected[name].std() > 0.1
        assert values.shape == expected[name].shape
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected[name], atol=1e-4, rtol=1e-4)


def test_outputs_keep_their_names_whatever_their_order():
    """LiteRT files name their outputs by tensors, in any order."""
    image = keras.Input((4, 4, 3), name="image")
    factors = {"zebra": 2.0, "ape": 3.0, "logits": 5.0, "middle_map": 7.0, "bee": 11.0}
    network = keras.Model(image, {name: factor * image for name, factor in factors.items()})
    batch = np.random.default_rng(0).uniform(1, 2, (5, 4, 4, 3)).astype(np.float32)
    for forward in (forward_pass(network), forward_pass(to_litert(network))):
        found = forward(batch)
        assert set(found) == set(factors)
        for name, factor in factors.items():
            np.testing.assert_allclose(found[name], factor * batch, rtol=1e-6)


def test_forward_pass_keeps_its_first_answers(forward: Forward):
    first = forward(images(3))
    kept = {name: values.copy() for name, values in first.items()}
    forward(images(3, seed=1))
    assert all(np.array_equal(first[name], kept[name]) for name in OUTPUTS)


def test_predict_keeps_the_order_of_the_images(forward: Forward):
    batches = tf.data.Dataset.from_tensor_slices(images(BATCH + 7)).batch(BATCH)
    found = predict(forward, batches, "test")
    in_parts = [*predictions(forward, batches, "test")]
    assert [len(part["logits"]) for part in in_parts] == [BATCH, 7]
    for name, expected in forward(images(BATCH + 7)).items():
        np.testing.assert_allclose(found[name], expected, atol=1e-5)
        assert np.array_equal(np.concatenate([part[name] for part in in_parts]), found[name])


def test_litert_file_of_one_image_and_of_whole_numbers_equals_keras(small: keras.Model):
    def int8(converter: tf.lite.TFLiteConverter) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in images(20))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.uint8

    expected = small.predict(images(5), verbose=0)
    exact, quantised = forward_pass(to_litert(small))(images(5)), forward_pass(to_litert(small, int8))(images(5))
    assert set(exact) == set(quantised) == OUTPUTS
    for name in OUTPUTS:
        np.testing.assert_allclose(exact[name], expected[name], atol=1e-4, rtol=1e-4)
        assert quantised[name].dtype == np.float32
        assert np.abs(quantised[name] - expected[name]).max() < 0.15 * (expected[name].max() - expected[name].min())


@pytest.mark.parametrize("in_whole_numbers", [False, True])
def test_litert_files_do_not_augment(in_whole_numbers: bool):
    """Layers that augment images during training: a user's network may have them."""
    image = keras.Input((32, 32, 3), name="image")
    augmented = layers.RandomContrast(0.9)(layers.RandomRotation(0.5)(layers.RandomFlip()(image)))
    corner = layers.Dropout(0.5)(layers.Cropping2D(((0, 28), (0, 28)))(augmented))
    network = keras.Model(image, {"logits": layers.GlobalAveragePooling2D()(corner)})
    batch = images(20)
    configure = in_int8(tf.data.Dataset.from_tensors(batch), tf.float32) if in_whole_numbers else lambda converter: None
    answers = forward_pass(to_litert(network, configure))(batch)["logits"]
    np.testing.assert_allclose(answers, batch[:, :4, :4].mean(axis=(1, 2)), atol=1.5 if in_whole_numbers else 1e-3)


def test_threads_may_share_a_network(small: keras.Model):
    network, batch = Network(to_litert(small)), images(64)
    assert network.input_shape == [32, 32, 3]
    assert network.output_shapes == {"logits": [3], "middle_map": [16, 16, 4], "last_map": [8, 8, 8]}
    expected = network(batch)
    with ThreadPoolExecutor(8) as threads:
        answers = [*threads.map(network, [batch] * 32)]
    for answer in answers:
        for name in OUTPUTS:
            np.testing.assert_array_equal(answer[name], expected[name])


def test_litert_file_for_several_images_at_a_time_is_refused():
    several = keras.Sequential([keras.Input(batch_shape=(2, 4)), layers.Dense(1)])
    with pytest.raises(ValueError, match="takes 2 images at a time, should take one"):
        Network(tf.lite.TFLiteConverter.from_keras_model(several).convert())


def test_whole_numbers_of_the_input_are_those_of_the_pixels_even_if_no_image_is_bright(small: keras.Model):
    dim = tf.data.Dataset.from_tensors(images(20) / 4)
    content = to_litert(small, export.variants(dim)["int8"])
    (source,) = Interpreter(model_content=content).get_input_details()
    assert source["dtype"] == np.uint8
    assert source["quantization"] == (1.0, 0)


def stacked(batches: tf.data.Dataset) -> np.ndarray:
    """The images of all batches, which are full except the last, and as many as announced."""
    arrays = [*batches.as_numpy_iterator()]
    assert len(arrays) == len(batches)
    assert {len(array) for array in arrays[:-1]} <= {BATCH}
    return np.concatenate(arrays)


def test_images_for_inference_are_the_views_in_view_and_id_order(records: Records, params: Params):
    size = records.manifest.image_size
    decoded = tf.stack([decode(serialised, size)["image"] for serialised in records.dataset()])
    np.testing.assert_allclose(stacked(plain_images(records, 32)), plain(decoded, 32), atol=1e-3)
    expected = [augmented(decoded, records.ids.astype(bytes), view, 32, params.views) for view in range(3)]
    found = stacked(view_images(records, 32, params.views, 3))
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-3)


@pytest.mark.parametrize("first", [1, 23, 24, 25, 32, 64, 71])
@pytest.mark.parametrize("mix", [0.0, 0.5])
def test_images_for_inference_may_begin_anywhere(
    records: Records, params: Params, monkeypatch: pytest.MonkeyPatch, first: int, mix: float
):
    monkeypatch.setattr(viewing, "UNMIXED", 2)
    views = changed(params.views, augment=params.views.augment.model_dump() | {"mix": mix})
    whole = stacked(view_images(records, 32, views, 3))
    assert len(whole) == 72
    np.testing.assert_allclose(stacked(view_images(records, 32, views, 3, first)), whole[first:], atol=1e-3)
    if first % BATCH == 0:  # as `cache_teacher_logits` goes on: to the last bit
        assert np.array_equal(stacked(view_images(records, 32, views, 3, first)), whole[first:])


def test_networks_come_back(small: keras.Model, tmp_path: Path):
    save_network(small, tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [CONFIGURATION, WEIGHTS]
    other = load_network(tmp_path / "a")
    assert other.input.name == "image"
    for mine, theirs in zip(other.get_weights(), small.get_weights(), strict=True):
        assert np.array_equal(mine, theirs)
    for name, values in small(images(2)).items():
        assert np.array_equal(other(images(2))[name], values)
    assert [layer.name for layer in other.layers] == [layer.name for layer in small.layers]
    assert load_network(str(tmp_path / "a")).count_params() == small.count_params()


def test_teachers_come_back_with_their_maps(params: Params, tmp_path: Path):
    teacher = build_teacher(changed(params.teacher, width=0.35, image_size=32, dropout=0.2), 3)
    save_network(teacher, tmp_path / "a")
    other = load_network(tmp_path / "a")
    for name, values in teacher(images(2)).items():
        np.testing.assert_allclose(other(images(2))[name], values, atol=1e-6)
    assert other.get_layer(HEAD).units == 3


def test_equal_networks_give_equal_files_that_replace_what_was_there(
    small: keras.Model, params: Params, tmp_path: Path
):
    other = build_student(changed(params.student, image_size=32, channels=[4, 6]), 3)
    save_network(other, tmp_path / "a")
    for name in ("a", "b"):
        save_network(small, tmp_path / name)
    for file in (CONFIGURATION, WEIGHTS):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.filterwarnings("ignore::UserWarning:keras")
@pytest.mark.parametrize(
    "values", [{"channels": [4, 6]}, {"channels": [4, 8, 8]}, {"blocks": 1}, {"blocks": 3}], ids=str
)
def test_weights_of_another_student_are_refused(small: keras.Model, params: Params, tmp_path: Path, values: dict):
    other = build_student(changed(params.student, **{"image_size": 32, "channels": [4, 8], "blocks": 2} | values), 3)
    save_network(other, tmp_path / "a")
    small.save_weights(tmp_path / "a" / WEIGHTS)
    with pytest.raises(InputError, match=rf"a/{WEIGHTS} does not hold the weights of the student beside it"):
        load_network(tmp_path / "a")


def foreign_contents() -> dict[str, bytes]:
    """Files that are neither weights nor configurations, by kind."""
    contents = {"empty": b"", "text": b"no weights", "pickle": pickle.dumps(Payload())}
    for kind, save in {"npy": np.save, "npz": np.savez}.items():
        file = io.BytesIO()
        save(file, np.array([Payload()]), allow_pickle=True)
        contents[kind] = file.getvalue()
    file = io.BytesIO()
    with h5py.File(file, "w") as other:
        other["array"] = np.zeros(3)
    return contents | {"h5": file.getvalue()}


def refusal(folder: Path, file: str) -> str:
    with pytest.raises(InputError, match=rf"a/{file} does not hold .*: run `dvc repro`") as caught:
        load_network(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning:keras")
@pytest.mark.parametrize("file", [CONFIGURATION, WEIGHTS])
def test_missing_and_foreign_files_of_networks_are_refused(small: keras.Model, tmp_path: Path, file: str):
    refusal(tmp_path / "a", CONFIGURATION)
    save_network(small, tmp_path / "a")
    (tmp_path / "a" / file).unlink()
    refusal(tmp_path / "a", file)
    for content in foreign_contents().values():
        (tmp_path / "a" / file).write_bytes(content)
        refusal(tmp_path / "a", file)


def test_configurations_of_something_else_are_refused(small: keras.Model, tmp_path: Path):
    save_network(small, tmp_path / "a")
    path, text = tmp_path / "a" / CONFIGURATION, small.to_json()
    image = keras.Input((32, 32, 3), name="image")
    nameless = keras.Model(image, layers.Flatten()(image)).to_json()
    without_logits = keras.Model(image, {"features": layers.Flatten()(image)}).to_json()
    others = [nameless, without_logits, "[]", "null", "3", "{}", text.replace("Functional", "Dysfunctional")]
    for other in (*others, *(text[: len(text) * share // 7] for share in range(7))):
        path.write_text(other)
        refusal(tmp_path / "a", CONFIGURATION)
    path.write_text(text)
    load_network(tmp_path / "a")


def test_code_in_a_configuration_is_not_run(tmp_path: Path):
    image = keras.Input((32, 32, 3), name="image")
    network = keras.Model(image, {"logits": layers.Flatten()(layers.Lambda(lambda x: x)(image))})
    save_network(network, tmp_path / "a")
    assert "__lambda__" in (tmp_path / "a" / CONFIGURATION).read_text()
    assert "ambda" in refusal(tmp_path / "a", CONFIGURATION)


@settings(max_examples=40)
@given(st.data())
def test_truncated_weights_are_refused(
    small: keras.Model, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    folder = tmp_path_factory.getbasetemp() / "a"
    save_network(small, folder)
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    refusal(folder, WEIGHTS)


@pytest.mark.parametrize("content", [None, b"no weights", pickle.dumps(Payload())], ids=["missing", "text", "pickle"])
def test_pretrained_weights_that_cannot_be_had_are_named(params: Params, tmp_path: Path, content: bytes | None):
    path = tmp_path / "backbone.weights.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"teacher\.weights = .*backbone\.weights\.h5"):
        build_teacher(changed(params.teacher, image_size=32, weights=str(path)), 2)


def test_pretrained_weights_fill_the_backbone(params: Params, tmp_path: Path):
    keras.utils.set_random_seed(0)
    backbone = keras.applications.MobileNetV2(
        input_shape=(32, 32, 3), alpha=0.35, include_top=False, weights=None, pooling="avg"
    )
    backbone.save_weights(tmp_path / "backbone.weights.h5")
    teacher = build_teacher(changed(params.teacher, image_size=32, weights=str(tmp_path / "backbone.weights.h5")), 2)
    for mine, theirs in zip(teacher.get_weights()[:-2], backbone.get_weights(), strict=True):
        assert np.array_equal(mine, theirs)
    image = images(1)
    expected = backbone(image / 127.5 - 1).numpy()  # MobileNetV2 expects -1..1
    seen = keras.Model(teacher.input, teacher.get_layer(HEAD).input)(image).numpy()
    assert expected.std() > 0
    np.testing.assert_allclose(seen / expected.std(), expected / expected.std(), atol=1e-3)

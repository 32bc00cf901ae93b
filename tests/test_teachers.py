"""Teachers: any network of keras.applications, with its own preprocessing, and its feature maps found by their side."""

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import changed
from keras import layers

from distillation import resume
from distillation.data.records import Records
from distillation.errors import InputError
from distillation.files import read_json
from distillation.inference.answers import Answers
from distillation.inference.forward import forward_pass, plain_images
from distillation.networks import teachers
from distillation.networks.network import feature_maps, load_network, macs
from distillation.networks.teachers import HEAD, build_teacher, preprocessed
from distillation.params import Params
from distillation.training import checkpoint
from stages import cache_teacher_logits, distill, train_teacher

MODULES = sorted(
    name for name, module in vars(keras.applications).items() if hasattr(module, "preprocess_input") and name[0] != "_"
)
NETWORKS = ("MobileNetV2", "MobileNetV3Small", "EfficientNetV2B0", "ResNet50V2", "ConvNeXtTiny")


def test_every_module_of_networks_is_tried():
    assert {"mobilenet_v2", "resnet", "densenet", "convnext", "vgg16"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_preprocessing_inside_equals_that_of_keras(name: str):
    module = getattr(keras.applications, name)
    images = np.random.default_rng(0).uniform(0, 255, (3, 8, 8, 3)).astype(np.float32)
    image = keras.Input((8, 8, 3))
    network = keras.Model(image, layers.Identity()(preprocessed(image, module)))
    expected = module.preprocess_input(images.copy())
    np.testing.assert_allclose(network(images), expected, rtol=1e-5, atol=1e-4)
    restored = keras.models.model_from_json(network.to_json())
    np.testing.assert_allclose(restored(images), expected, rtol=1e-5, atol=1e-4)


def block(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Halves the side, adds a branch, and goes on: as a residual network whose blocks begin with an expansion."""
    x = layers.Conv2D(4, 3, 2, padding="same", name=f"{name}_half")(x)
    x = layers.Add(name=f"{name}_sum")([x, layers.Conv2D(4, 1, name=f"{name}_branch")(x)])
    return layers.ReLU(name=f"{name}_end")(x)


def layers_of_maps(network: keras.Model) -> dict[str, str]:
    """By map, the layer that makes it."""
    made_by = {id(layer.output): layer.name for layer in network.layers}
    return {name: made_by[id(output)] for name, output in feature_maps(network).items()}


@pytest.mark.parametrize("size", [64, 72, 48, 100, 32])
def test_maps_are_a_sum_at_a_16th_and_the_last_layer_at_a_32nd(size: int):
    image = x = keras.Input((size, size, 3))
    for number in range(1, 6):
        x = block(x, f"block{number}")
    network = keras.Model(image, layers.GlobalAveragePooling2D()(x))
    assert layers_of_maps(network) == {"middle_map": "block4_sum", "last_map": "block5_end"}


def test_maps_of_a_network_without_branches_are_the_last_layers_of_their_side():
    image = x = keras.Input((64, 64, 3))
    for number in range(1, 6):
        x = layers.Conv2D(4, 3, 2, padding="same", name=f"half{number}")(x)
        x = layers.ReLU(name=f"end{number}")(x)
    network = keras.Model(image, layers.Dense(2)(layers.Flatten()(x)))
    assert layers_of_maps(network) == {"middle_map": "end4", "last_map": "end5"}


@pytest.mark.parametrize("halvings", [0, 3, 4])
def test_a_network_without_both_maps_has_none(halvings: int):
    image = x = keras.Input((256, 256, 3))
    for number in range(halvings):
        x = block(x, f"block{number}")
    assert feature_maps(keras.Model(image, layers.GlobalAveragePooling2D()(x))) == {}


def test_macs_of_networks_within_a_network_and_of_dense_layers_on_maps():
    within = keras.Sequential([keras.Input((8, 8, 3)), layers.SeparableConv2D(4, 3, padding="same")])
    image = keras.Input((8, 8, 3))
    network = keras.Model(image, layers.Dense(5)(within(image)))
    assert macs(network) == 64 * (9 * 3 + 3 * 4) + 64 * 4 * 5


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"network": "ResNet50v2"}, r"teacher\.network = 'ResNet50v2', .*class name: ResNet50V2, "),
        ({"network": "mobilenetv2"}, r"class name: MobileNetV2"),
        ({"network": "xyz"}, r"class name, such as MobileNetV2"),
        ({"network": "mobilenet_v2"}, r"class name: MobileNetV2"),
        ({"network": "keras"}, r"class name"),
        (
            {"network": "ResNet50V2", "width": 0.35},
            r"teacher\.width = 0\.35, should be 1: ResNet50V2 has no multiplier",
        ),
        ({"network": "InceptionV3", "width": 1.0}, r"InceptionV3 at teacher\.image_size = 64 cannot be built: "),
        ({"network": "VGG16", "width": 1.0, "weights": "nowhere.h5"}, r"teacher\.weights = 'nowhere\.h5' should be"),
        (
            {"network": "EfficientNetB0", "width": 1.0, "weights": __file__},
            r"would be read wrongly by EfficientNetB0: it",
        ),
    ],
    ids=str,
)
def test_teachers_that_cannot_be_built_are_named(params: Params, values: dict, problem: str):
    with pytest.raises(InputError, match=problem) as caught:
        build_teacher(changed(params.teacher, **values), 3)
    assert "\n" not in str(caught.value)


def test_a_network_of_ones_own(params: Params, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def plain(image: keras.KerasTensor) -> keras.KerasTensor:
        x = layers.Rescaling(1 / 255)(image)
        for number in range(5):
            x = layers.Conv2D(8, 3, 2, padding="same", name=f"half{number}")(x)
        return layers.GlobalAveragePooling2D()(x)

    monkeypatch.setitem(teachers.TEACHERS, "Plain", plain)
    settings = changed(params.teacher, network="Plain", width=1.0, image_size=64)
    teacher = build_teacher(settings, 3)
    assert {name: output.shape[1:] for name, output in teacher.output.items()} == {
        "logits": (3,),
        "middle_map": (4, 4, 8),
        "last_map": (2, 2, 8),
    }
    with pytest.raises(InputError, match=r"teacher\.weights = 'imagenet' should be null or the path"):
        build_teacher(changed(settings, weights="imagenet"), 3)
    image = keras.Input((64, 64, 3))
    keras.Model(image, plain(image)).save_weights(tmp_path / "plain.weights.h5")
    with pytest.raises(InputError, match=r"should be 1: Plain has no"):
        build_teacher(changed(settings, width=0.5), 3)
    build_teacher(changed(settings, weights=str(tmp_path / "plain.weights.h5")), 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_trains_converts_answers_and_teaches(
    params: Params, records_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.chdir(tmp_path)
    for module in (resume, checkpoint):
        monkeypatch.setattr(module, "fingerprint", lambda stage: f"of {stage}")
    shutil.copytree(records_directory, "data/records")
    content = params.model_dump()
    content["budget"] = {"shown": 32, "answered": 24, "teacher": 8}
    content["teacher"] |= {"network": name, "width": 0.35 if name == "MobileNetV2" else 1.0, "batch_size": 8}
    content["distill"] |= {"feature_channels": 4, "weights": {"features": 5}}
    chosen = Params.model_validate(content)
    train_teacher.main(chosen)
    teacher = load_network("models/teacher")
    assert teacher.get_layer(HEAD).units == 3
    cache_teacher_logits.main(chosen)
    shapes = Answers(1, 24).shapes
    assert shapes == {"logits": (3,), "middle_map": (4, 4, 1), "last_map": (2, 2, 4)}
    distill.main(chosen)
    assert all(row["objective_features"] > 0 for row in read_json("plots/history/student_distilled.json"))
    for images in plain_images(Records("validation"), 64).as_numpy_iterator():
        expected, found = teacher(images, training=False), forward_pass(teacher)(images)
        for output, values in expected.items():
            np.testing.assert_allclose(found[output], values, rtol=1e-3, atol=1e-4 * np.abs(values).max())

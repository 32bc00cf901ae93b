"""Stages on input that they cannot use: one line names it, and existing outs do not change."""

import io
import itertools
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import Payload, changed, encoded, random_image, smooth_image, write_numbers_of_a_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from distillation.data.records import Records, decode
from distillation.data.splits import UNLABELED
from distillation.errors import InputError
from distillation.inference import answers
from distillation.networks.network import save_network
from distillation.networks.teachers import build_teacher
from distillation.params import Data, Params
from distillation.sources import spool
from distillation.sources.open import Original, Source, open_source
from stages import cache_teacher_logits, distill, prepare, report


def jpeg(number: int, size: int = 16) -> bytes:
    return encoded(Image.fromarray(random_image(np.random.default_rng(number), size)), "JPEG")


PHOTOS = {f"{name}/{number}.jpg": jpeg(10 * label + number) for label, name in enumerate("ab") for number in range(5)}


def fill(folder: Path, images: dict[str, bytes]) -> None:
    """Make these files the only content of `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def complaint(stage, params: Params) -> str:
    with pytest.raises(InputError) as caught:
        stage.main(params)
    assert "\n" not in str(caught.value)
    assert not [*Path().rglob(".partial-*")]
    return str(caught.value)


@pytest.fixture
def photos(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Parameters of a folder of two classes that has been prepared in the current directory."""
    monkeypatch.chdir(tmp_path)
    fill(Path("photos"), PHOTOS)
    Path("data").mkdir()
    Path("data/class_names.txt").touch()
    fill(Path("data/unlabeled"), {"README.md": b"none"})
    data = changed(params.data, name="folder", folder="photos", image_size=32)
    chosen = params.model_copy(update={"data": data})
    prepare.main(chosen)
    return chosen


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ({}, "photos"),
        ({"a/0.jpg": jpeg(0)}, "at least two"),
        (PHOTOS | {"c/0.jpg": jpeg(50)}, "class c has 1 different images; it should have at least 3"),
        (PHOTOS | {f"c/{n}.jpg": jpeg(50) for n in range(9)}, "class c has 1 different images"),
        ({f"{name}/{n}.jpg": jpeg(n) for name in "ab" for n in range(5)}, "class a has 0 different images"),
        (PHOTOS | {"a/0.jpg": b""}, "a/0.jpg: not an image"),
        (PHOTOS | {"a/notes.txt": b"two cats"}, "a/notes.txt: not an image"),
        (PHOTOS | {"a/0.jpg": jpeg(0)[:-200]}, "a/0.jpg: cannot be decoded"),
        # At its stored size it would go into the records as it is. Pillow reads it, TensorFlow does not.
        (PHOTOS | {"a/0.jpg": jpeg(0, 32)[:-8] + bytes(6)}, "a/0.jpg: cannot be decoded"),
    ],
    ids=[
        "nothing",
        "one class",
        "one image",
        "copies of one image",
        "contradicting labels",
        "empty",
        "text",
        "truncated",
        "without an end",
    ],
)
def test_folder_that_cannot_be_used_is_named(photos: Params, images: dict[str, bytes], words: str):
    before = contents(Path("data"))
    fill(Path("photos"), images)
    assert words in complaint(prepare, photos)
    assert contents(Path("data")) == before


def test_classes_of_which_there_is_no_image_are_left_out(
    photos: Params, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    """As `emnist/letters` of TFDS, a source may declare more classes than it has."""

    @contextmanager
    def declaring(data: Data) -> Iterator[Source]:
        with open_source(data) as source:
            images = (image._replace(label=2 * image.label) for image in source.images)
            yield replace(source, classes=["a", "none", "b"], images=images)

    expected = [(Records(split).manifest, Records(split).labels.tolist()) for split in ("train", "test")]
    monkeypatch.setattr(prepare, "open_source", declaring)
    prepare.main(photos)
    assert [(Records(split).manifest, Records(split).labels.tolist()) for split in ("train", "test")] == expected
    assert "warning: 1 of 3 classes have no image, and are left out: none" in capfd.readouterr().err


def test_every_file_that_is_no_image_is_named(photos: Params, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spool, "MOST_NAMED", 4)
    fill(Path("photos"), PHOTOS | {f"a/{number}.heic": b"a photograph" for number in range(6)})
    with pytest.raises(InputError) as caught:
        prepare.main(photos)
    *named, rest = map(str, caught.value.args)
    assert len({*named}) == 4
    assert all(problem.endswith(".heic: not an image that Pillow can read") for problem in named)
    assert rest == "2 more images cannot be read"


def test_shots_of_one_scene_are_no_copies_and_a_warning_says_so(photos: Params, capsys: pytest.CaptureFixture):
    scene = Image.fromarray(random_image(np.random.default_rng(0), 64)).resize((64, 64))

    def shot(number: int) -> bytes:
        pixels = np.asarray(scene).copy()
        pixels[number % 60, :4] = number  # a scratch
        return encoded(Image.fromarray(pixels), "JPEG", quality=95)

    numbers = iter(range(200))
    images = {f"train/{name}/{n}.jpg": shot(next(numbers)) for name in "ab" for n in range(20)}
    images |= {f"test/{name}/{n}.jpg": shot(next(numbers)) for name in "ab" for n in range(10)}
    fill(Path("photos"), images)
    prepare.main(photos)
    manifest = Records("test").manifest
    assert {name: manifest.size(name) for name in ("train", "validation", "test")} == {
        **{"train": 36, "validation": 4, "test": 20},
    }
    assert manifest.overlapping_dropped == {"unlabeled": 0, "train": 0, "validation": 0}
    assert "warning: 20 of 20 test images look like a training image: if they are copies," in capsys.readouterr().err


def test_validation_split_of_copies_is_none(photos: Params):
    images = {f"train/{name}": content for name, content in PHOTOS.items()}
    held_out = {f"{name}/{n}.jpg": jpeg(50 + 10 * label + n) for label, name in enumerate("ab") for n in range(2)}
    images |= {f"{split}/{name}": content for name, content in held_out.items() for split in ("test", "val")}
    fill(Path("photos"), images)
    prepare.main(photos)
    manifest = Records("test").manifest
    assert manifest.official_splits == {"train": "train", "test": "test"}
    assert manifest.overlapping_dropped["validation"] == 4
    assert manifest.size("validation") == 2
    fill(Path("photos"), images | {"val/b/own.jpg": jpeg(70)})
    words = "class a has no image in the official validation split (copies of test images do not count), or set"
    assert words in complaint(prepare, photos)


def test_official_test_is_never_reduced_and_what_overlaps_with_it_costs_training(photos: Params):
    images = {f"train/{name}": content for name, content in PHOTOS.items()}
    images |= {f"test/{name}/{n}.jpg": jpeg(50 + 10 * label + n) for label, name in enumerate("ab") for n in range(2)}
    images["train/b/4.jpg"] = encoded(smooth_image(0), "JPEG", quality=95)
    images["test/b/smaller.jpg"] = encoded(smooth_image(0).resize((64, 64)), "JPEG", quality=80)
    images |= {"test/a/same.jpg": jpeg(3), "test/b/same.jpg": jpeg(3)}  # as train/a/3.jpg
    fill(Path("photos"), images)
    prepare.main(photos)
    test, train, validation = (Records(name) for name in ("test", "train", "validation"))
    assert sorted(test.sources) == sorted(name for name in images if name.startswith("test/"))
    left = {*train.sources, *validation.sources}
    assert left == {f"train/{name}" for name in PHOTOS} - {"train/a/3.jpg", "train/b/4.jpg"}
    assert len(validation) == 2
    assert test.manifest.overlapping_dropped == {"unlabeled": 0, "train": 2, "validation": 0}
    assert test.manifest.official_splits == {"train": "train", "test": "test"}


def test_unlabeled_images_join_the_training_ones(photos: Params):
    before = {name: Records(name).ids.tolist() for name in ("train", "validation", "test")}
    test, train = (Records(name).sources[0] for name in ("test", "train"))
    fill(
        Path("more"),
        {
            "README.md": b"ours",
            "1.jpg": jpeg(101),
            "deep/1.jpg": jpeg(101),
            "deep/2.jpg": jpeg(102),
            "test.jpg": Path("photos", test).read_bytes(),
            "train.jpg": Path("photos", train).read_bytes(),
            ".hidden": b"",
        },
    )
    prepare.main(photos.model_copy(update={"data": changed(photos.data, unlabeled="more")}))
    after = Records("train")
    assert {name: Records(name).ids.tolist() for name in ("validation", "test")} | {"train": before["train"]} == before
    new = after.labels == UNLABELED
    assert sorted(after.sources[new]) == ["unlabeled/1.jpg", "unlabeled/deep/2.jpg"]
    assert after.ids[~new].tolist() == before["train"]
    assert after.ids.tolist() == sorted(after.ids)
    manifest = after.manifest
    assert (manifest.unlabeled, manifest.duplicates_dropped, manifest.size("train")) == (2, 1, len(before["train"]) + 2)
    assert manifest.overlapping_dropped == {"unlabeled": 2, "train": 0, "validation": 0}


def test_unlabeled_images_that_resemble_a_held_out_one_are_dropped(photos: Params):
    for number in range(5):
        for name, seed in (("a", number), ("b", 10 + number)):
            Path(f"photos/{name}/{number}.jpg").write_bytes(encoded(smooth_image(seed), "JPEG", quality=95))
    fill(Path("more"), {f"{n}.jpg": encoded(smooth_image(n, 80, 80), "JPEG", quality=80) for n in (*range(5), 77)})
    prepare.main(photos.model_copy(update={"data": changed(photos.data, unlabeled="more")}))
    train, held_out = Records("train"), [*Records("validation").sources, *Records("test").sources]
    of_a = {name for name in held_out if name.startswith("a/")}
    assert len(of_a) == 2
    kept = {name.replace("unlabeled", "a") for name in train.sources[train.labels == UNLABELED]}
    assert kept == {f"a/{n}.jpg" for n in (*range(5), 77)} - of_a
    assert train.manifest.overlapping_dropped["unlabeled"] == 2


def test_many_unlabeled_images_that_resemble_held_out_ones_stay_with_a_warning(
    photos: Params, capfd: pytest.CaptureFixture[str]
):
    images = [smooth_image(number) for number in range(60)]
    fill(Path("photos"), {f"{'ab'[n % 2]}/{n}.jpg": encoded(image, "JPEG") for n, image in enumerate(images)})
    fill(Path("more"), {f"{n}.jpg": encoded(image.resize((80, 80)), "JPEG") for n, image in enumerate(images)})
    prepare.main(photos.model_copy(update={"data": changed(photos.data, unlabeled="more")}))
    manifest = Records("train").manifest
    assert (manifest.unlabeled, manifest.overlapping_dropped["unlabeled"]) == (60, 0)
    assert manifest.near_duplicates["test"] == manifest.size("test")
    assert f"{manifest.size('test')} of {manifest.size('test')} test images look like" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "data.unlabeled = 'more' is no folder"),
        ({".hidden": b""}, "data.unlabeled = 'more' holds no images"),
        ({"notes.txt": b"no image"}, "unlabeled/notes.txt: not an image"),
    ],
)
def test_unlabeled_folder_that_makes_no_sense_is_named(photos: Params, files: dict[str, bytes], words: str):
    before = contents(Path("data"))
    fill(Path("more"), files)
    assert words in complaint(prepare, photos.model_copy(update={"data": changed(photos.data, unlabeled="more")}))
    assert contents(Path("data")) == before


def test_names_of_classes_are_those_of_the_file(photos: Params):
    Path("data/class_names.txt").write_text("b badger\na ant bear\n")
    prepare.main(photos)
    assert Records("train").manifest.classes == ["ant bear", "badger"]
    assert Records("train").manifest.counts["test"] == {"ant bear": 1, "badger": 1}


@pytest.mark.parametrize("count", [3, 150])
def test_few_images_in_all_are_enough(photos: Params, count: int):
    fill(
        Path("photos"),
        {f"{name}/{n}.jpg": jpeg(1000 * label + n) for label, name in enumerate("ab") for n in range(count)},
    )
    prepare.main(photos)
    assert [len(Records(name)) for name in ("train", "validation", "test")] == {
        3: [2, 2, 2],
        150: [210, 30, 60],
    }[count]


# Of these two sizes, the one is re-encoded and the other taken as it is.
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([jpeg(13, 16), jpeg(13, 32)]), st.data())
def test_damaged_jpeg_is_an_image_or_named(photos: Params, content: bytes, data: st.DataObject):
    place, noise = data.draw(st.integers(0, len(content) - 1)), data.draw(st.binary(max_size=9))
    rest = data.draw(st.sampled_from([content[place + len(noise) :], content[place:], b""]))
    before = contents(Path("data"))
    Path("photos/b/3.jpg").write_bytes(content[:place] + noise + rest)
    try:
        prepare.main(photos)
        for split in ("train", "validation", "test"):
            for serialised in Records(split).dataset():
                assert decode(serialised, 32)["image"].shape == (32, 32, 3)
    except InputError as error:
        assert str(error).startswith("b/3.jpg: ")
        assert "\n" not in str(error)
        assert contents(Path("data")) == before


def test_images_of_one_pixel_will_do(photos: Params):
    values = {"a": range(0, 100, 10), "b": range(100, 200, 10)}
    pixels = {f"{name}/{v}.png": encoded(Image.new("L", (1, 1), v), "PNG") for name in values for v in values[name]}
    fill(Path("photos"), pixels)
    prepare.main(photos)
    records = Records("train")
    for serialised in records.dataset():
        image = decode(serialised, 32)["image"].numpy()
        assert np.ptp(image) <= 1
    assert len(records) == 14


@pytest.mark.parametrize("label", [-1, 2, 10**6])
def test_label_out_of_range_is_named(photos: Params, monkeypatch: pytest.MonkeyPatch, label: int):
    @contextmanager
    def source(data: Data) -> Iterator[Source]:
        images = [Original(jpeg(number), number % 2, f"good {number}") for number in range(10)]
        yield Source("test", "1", ["a", "b"], 11, iter([*images, Original(jpeg(10), label, "bad 10")]))

    monkeypatch.setattr(prepare, "open_source", source)
    before = contents(Path("data"))
    assert complaint(prepare, photos) == f"bad 10 has label {label}; it should be one of 0..1"
    assert contents(Path("data")) == before


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, np.zeros(3))
    return file.getvalue()


# What the teacher says of 6 views of 24 images, in parts of 64 answers: two whole ones and one of 16.
OUTPUTS = {
    "logits": np.zeros((144, 3), np.float32),
    "middle_map": np.zeros((144, 2, 2, 8), np.float16),
    "last_map": np.zeros((144, 1, 1, 32), np.float16),
}
PARTS = (64, 64, 16)


@pytest.fixture
def answered(records_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records, and the teacher's answers to six views of each training image."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(answers, "PART", PARTS[0])
    shutil.copytree(records_directory, "data/records")
    batches = [{name: values[i : i + 32] for name, values in OUTPUTS.items()} for i in range(0, 144, 32)]
    answers.write_parts(answers.ANSWERS, 0, batches)


def answer(name: str, part: int) -> Path:
    return Path(f"data/teacher_answers/part-{part:05d}/{name}.npy")


def test_whole_answers_are_taken(answered: None):
    found = answers.Answers(6, 24)
    assert found.shapes == {name: values.shape[1:] for name, values in OUTPUTS.items()}
    for name, values in OUTPUTS.items():
        assert [np.load(answer(name, part)).shape for part in range(3)] == [(n, *values.shape[1:]) for n in PARTS]


LOGITS = npy(OUTPUTS["logits"][:64])
UNREADABLE = {
    "missing": None,
    "empty": b"",
    "text": b"no array",
    "half a header": LOGITS[:100],
    "truncated": LOGITS[:-1],
    "npz": npz(),
    "pickled array": npy(np.array([Payload()])),
    "pickle": pickle.dumps(Payload()),
}


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_answers_of_the_teacher_that_cannot_be_read_are_named(
    params: Params, answered: None, part: int, name: str, content: bytes | None
):
    answer(name, part).unlink()
    if content is not None:
        answer(name, part).write_bytes(content)
    assert complaint(distill, params).startswith(f"{answer(name, part)} cannot be read")


@pytest.mark.parametrize("part", range(3))
def test_missing_part_of_the_answers_is_named(params: Params, answered: None, part: int):
    shutil.rmtree(answer("logits", part).parent)
    assert complaint(distill, params).startswith(f"{answer('last_map', part)} cannot be read ([Errno 2] No such file")


def test_missing_answers_are_named(params: Params, answered: None):
    shutil.rmtree(answers.ANSWERS)
    assert complaint(distill, params).startswith(f"{answer('logits', 0)} cannot be read ([Errno 2] No such file")


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("count", [-1, 1, None], ids=["one too few", "one too many", "no images"])
def test_answers_about_other_images_are_refused(
    params: Params, answered: None, part: int, name: str, count: int | None
):
    stored = np.load(answer(name, part))
    other = stored[0, ..., 0] if count is None else np.zeros((len(stored) + count, *stored.shape[1:]), stored.dtype)
    np.save(answer(name, part), other)
    message = complaint(distill, params)
    assert message.startswith(f"{answer(name, part)} has {other.dtype} of shape {other.shape}, should have ")


@pytest.mark.parametrize("views", [5, 7])
def test_answers_about_another_number_of_views_are_refused(params: Params, answered: None, views: int):
    chosen = params.model_copy(update={"budget": changed(params.budget, answered=views * 24)})
    part = {5: 1, 7: 2}[views]  # 120 answers end in a part of 56, 168 in one of 40
    length = {5: 56, 7: 40}[views]
    message = complaint(distill, chosen)
    assert message.startswith(f"{answer('last_map', part)} has float16 of shape ({PARTS[part]}, 1, 1, 32)")
    assert f"should have float16 of shape ({length}, 1, 1, 32)" in message


@pytest.mark.parametrize("name", OUTPUTS)
def test_parts_must_fit_each_other(params: Params, answered: None, name: str):
    stored = np.load(answer(name, 1))
    for other in (stored[..., :-1], stored.astype(np.float64)):
        np.save(answer(name, 1), other)
        message = complaint(distill, params)
        assert message.startswith(f"{answer(name, 1)} has {other.dtype} of shape {other.shape}, should have ")
        assert f"should have {stored.dtype} of shape {stored.shape}" in message


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("kind", ["U1", "i4"])
def test_answers_that_are_no_floats_are_refused(params: Params, answered: None, part: int, name: str, kind: str):
    np.save(answer(name, part), np.load(answer(name, part)).astype(kind))
    message = complaint(distill, params)
    assert message.startswith(f"{answer(name, part)} has values of type {np.dtype(kind)}, should have floats")


@pytest.mark.parametrize("name", ["middle_map", "last_map"])
def test_maps_that_the_objective_wants_and_the_teacher_lacks_are_named(params: Params, answered: None, name: str):
    for part in range(3):
        answer(name, part).unlink()
    weights = changed(params.distill.weights, features=5)
    chosen = params.model_copy(update={"distill": changed(params.distill, weights=weights.model_dump())})
    assert complaint(distill, chosen).startswith(f"data/teacher_answers has no {name}, which distill.weights asks for")


def test_objective_goes_without_maps_that_the_teacher_has_none_of(
    params: Params, answered: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("CI", raising=False)
    for part, name in itertools.product(range(3), ("middle_map", "last_map")):
        answer(name, part).unlink()
    weights = changed(params.distill.weights, features=5)
    chosen = params.model_copy(update={"distill": changed(params.distill, weights=weights.model_dump())})
    monkeypatch.setattr(distill, "train_student", lambda stage, model, params, objective, answers: objective.reads())
    assert distill.main(chosen) == ["logits"]
    assert "has no feature maps: distill.weights.features left out" in capfd.readouterr().err


@pytest.mark.parametrize("name", [b"\xff.jpg", b"deep\xfe/0.jpg"], ids=repr)
def test_file_name_that_is_not_utf8_is_named(photos: Params, name: bytes):
    before = contents(Path("data"))
    fill(Path("photos"), PHOTOS | {f"a/{os.fsdecode(name)}": jpeg(50)})
    assert "is not UTF-8" in complaint(prepare, photos)
    assert contents(Path("data")) == before


def test_labels_that_the_manifest_does_not_name_are_refused(photos: Params):
    manifest = json.loads(Path("data/records/manifest.json").read_text())
    manifest["classes"].pop()
    Path("data/records/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="labels beyond"):
        Records("train")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "channels", "most"),
    [(32, 28, 24), (96, 132, 128)],
    ids=["24 places of the last map", "32 channels of the middle map"],
)
def test_more_features_than_the_teacher_can_give_are_refused(
    params: Params,
    records_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    channels: int,
    most: int,
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(records_directory, "data/records")
    small = changed(params.teacher, image_size=size)
    chosen = params.model_copy(update={"teacher": small, "distill": changed(params.distill, feature_channels=channels)})
    save_network(build_teacher(small, 3), "models/teacher")
    message = complaint(cache_teacher_logits, chosen)
    assert f"distill.feature_channels = {channels}, should be at most {most}" in message
    assert not any(Path("data").rglob("*.npy"))


@pytest.mark.parametrize("content", [b"", b"no table", "column"], ids=repr)
def test_predictions_that_cannot_be_read_are_named(
    params: Params, records_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | str
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(records_directory, "data/records")
    write_numbers_of_a_run()
    if isinstance(content, bytes):
        report.PREDICTIONS.write_bytes(content)
    else:
        pd.DataFrame({content: [1]}).to_parquet(report.PREDICTIONS)
    assert complaint(report, params).startswith("data/predictions.parquet ")

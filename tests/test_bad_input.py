"""Stages on input that they cannot use: one line names it, and what was there before stays as it was."""

import io
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import Payload, changed, encoded, random_picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from distillation.errors import InputError
from distillation.params import Data, Params
from distillation.records import Records, decode
from distillation.sources import Source
from distillation.teacher import build_teacher
from stages import cache_teacher_logits, distill, prepare, report


def jpeg(number: int, size: int = 16) -> bytes:
    return encoded(Image.fromarray(random_picture(np.random.default_rng(number), size)), "JPEG")


PICTURES = {f"{name}/{number}.jpg": jpeg(10 * label + number) for label, name in enumerate("ab") for number in range(5)}


def fill(folder: Path, pictures: dict[str, bytes]) -> None:
    """Let `folder` hold these files alone."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in pictures.items():
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
    fill(Path("photos"), PICTURES)
    data = changed(params.data, name="folder", folder="photos", image_size=32)
    chosen = params.model_copy(update={"data": data})
    prepare.main(chosen)
    return chosen


@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        ({}, "photos"),
        ({"a/0.jpg": jpeg(0)}, "at least two"),
        (PICTURES | {"c/0.jpg": jpeg(50)}, "class c has 1 different images; it should have at least 3"),
        (PICTURES | {f"c/{n}.jpg": jpeg(50) for n in range(9)}, "class c has 1 different images"),
        ({f"{name}/{n}.jpg": jpeg(n) for name in "ab" for n in range(5)}, "class a has 0 different images"),
        (PICTURES | {"a/0.jpg": b""}, "a/0.jpg: not an image"),
        (PICTURES | {"a/notes.txt": b"two cats"}, "a/notes.txt: not an image"),
        (PICTURES | {"a/0.jpg": jpeg(0)[:-200]}, "a/0.jpg: cannot be decoded"),
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
    ],
)
def test_folder_that_cannot_be_used_is_named(photos: Params, pictures: dict[str, bytes], words: str):
    before = contents(Path("data"))
    fill(Path("photos"), pictures)
    assert words in complaint(prepare, photos)
    assert contents(Path("data")) == before


# Of these two sizes, the one is re-encoded and the other taken as it is.
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([jpeg(13, 16), jpeg(13, 32)]), st.data())
def test_damaged_jpeg_is_a_picture_or_named(photos: Params, content: bytes, data: st.DataObject):
    place, noise = data.draw(st.integers(0, len(content) - 1)), data.draw(st.binary(max_size=9))
    rest = data.draw(st.sampled_from([content[place + len(noise) :], content[place:], b""]))
    before = contents(Path("data"))
    Path("photos/b/3.jpg").write_bytes(content[:place] + noise + rest)
    try:
        prepare.main(photos)
        for split in ("train", "validation", "test"):
            for serialised in Records("data/records", split).dataset():
                assert decode(serialised, 32)["image"].shape == (32, 32, 3)
    except InputError as error:
        assert str(error).startswith("b/3.jpg: ")
        assert "\n" not in str(error)
        assert contents(Path("data")) == before


def test_pictures_of_one_pixel_will_do(photos: Params):
    values = {"a": range(0, 100, 10), "b": range(100, 200, 10)}
    pixels = {f"{name}/{v}.png": encoded(Image.new("L", (1, 1), v), "PNG") for name in values for v in values[name]}
    fill(Path("photos"), pixels)
    prepare.main(photos)
    records = Records("data/records", "train")
    for serialised in records.dataset():
        image = decode(serialised, 32)["image"].numpy()
        assert np.ptp(image) <= 1
    assert len(records) == 14


@pytest.mark.parametrize("label", [-1, 2, 10**6])
def test_label_out_of_range_is_named(photos: Params, monkeypatch: pytest.MonkeyPatch, label: int):
    @contextmanager
    def source(data: Data) -> Iterator[Source]:
        pictures = [(jpeg(number), number % 2, f"good {number}") for number in range(10)]
        yield Source("test", "1", ["a", "b"], 11, iter([*pictures, (jpeg(10), label, "bad 10")]))

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


LOGITS = npy(np.zeros((6, 24, 3), np.float32))
ANSWERS = ["teacher_logits", "teacher_features/out_relu", "teacher_features/block_12_add"]
IDS = ["other pictures", "other views", "no numbers"]


@pytest.fixture
def answered(records_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records, and what the teacher says of each of six views."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(records_directory, "data/records")
    Path("data/teacher_features").mkdir()
    for name in ANSWERS:
        Path(f"data/{name}.npy").write_bytes(LOGITS)


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize(
    "content",
    [None, b"", b"no array", LOGITS[:100], LOGITS[:-1], npz(), npy(np.array([Payload()])), pickle.dumps(Payload())],
    ids=["missing", "empty", "text", "half a header", "truncated", "npz", "pickled array", "pickle"],
)
def test_answers_of_the_teacher_that_cannot_be_read_are_named(
    params: Params, answered: None, name: str, content: bytes | None
):
    Path(f"data/{name}.npy").unlink()
    if content is not None:
        Path(f"data/{name}.npy").write_bytes(content)
    assert complaint(distill, params).startswith(f"data/{name}.npy cannot be read")


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("answers", [np.zeros((6, 23, 3)), np.zeros((5, 24, 3)), np.zeros((6, 24, 3), "U1")], ids=IDS)
def test_answers_about_other_pictures_are_refused(params: Params, answered: None, name: str, answers: np.ndarray):
    Path(f"data/{name}.npy").write_bytes(npy(answers))
    assert f"data/{name}.npy has {answers.dtype} of shape {answers.shape}" in complaint(distill, params)


@pytest.mark.parametrize("name", [b"\xff.jpg", b"deep\xfe/0.jpg"], ids=repr)
def test_file_name_that_is_not_utf8_is_named(photos: Params, name: bytes):
    before = contents(Path("data"))
    fill(Path("photos"), PICTURES | {f"a/{os.fsdecode(name)}": jpeg(50)})
    assert "is not UTF-8" in complaint(prepare, photos)
    assert contents(Path("data")) == before


def test_labels_that_the_manifest_does_not_name_are_refused(photos: Params):
    manifest = json.loads(Path("data/records/manifest.json").read_text())
    manifest["classes"].pop()
    Path("data/records/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="labels beyond"):
        Records("data/records", "train")


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
    Path("models").mkdir()
    build_teacher(small, 3).save_weights("models/teacher.weights.h5")
    message = complaint(cache_teacher_logits, chosen)
    assert f"distill.feature_channels = {channels}, should be at most {most}" in message
    assert not any(Path("data").rglob("*.npy"))


@pytest.mark.parametrize("content", [b"", b"no table", "column"], ids=repr)
def test_predictions_that_cannot_be_read_are_named(
    params: Params, records_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | str
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(records_directory, "data/records")
    Path("metrics").mkdir()
    for name in ("evaluate", "export"):
        Path(f"metrics/{name}.json").write_text("{}")
    if isinstance(content, bytes):
        report.PREDICTIONS.write_bytes(content)
    else:
        pd.DataFrame({content: [1]}).to_parquet(report.PREDICTIONS)
    assert complaint(report, params).startswith("data/predictions.parquet ")

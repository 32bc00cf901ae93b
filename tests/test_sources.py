"""Where pictures come from: folders, names that TFDS knows or not, and the drawn data set."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from helpers import changed
from scipy.stats import binomtest, norm

from distillation.errors import InputError
from distillation.params import Data
from distillation.sources import pet_sketches
from distillation.sources.images import read_rgb
from distillation.sources.open import open_source
from distillation.sources.pet_sketches import CLASSES, PetSketches, Traits, draw, jpeg


def folder(data: Data, directory: Path, **files: list[str]) -> Data:
    """Parameters of a folder source that holds `files` by class, each file holding its own path."""
    for name, members in files.items():
        (directory / name).mkdir(parents=True, exist_ok=True)
        for member in members:
            path = directory / name / member
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name}/{member}")
    return changed(data, name="folder", folder=str(directory))


def refusal(data: Data) -> str:
    with pytest.raises(InputError) as caught, open_source(data):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def data() -> Data:
    return Data()


def test_folder_gives_sorted_classes_and_all_their_files(data: Data, tmp_path: Path):
    chosen = folder(data, tmp_path, dog=["b.jpg", "a.jpg"], cat=["c.jpg"], bee=["deep/er/d.png"])
    (tmp_path / "notes.txt").write_text("no class")
    with open_source(chosen) as source:
        assert (source.name, source.classes, source.count) == ("folder", ["bee", "cat", "dog"], 4)
        expected = [("bee/deep/er/d.png", 0), ("cat/c.jpg", 1), ("dog/a.jpg", 2), ("dog/b.jpg", 2)]
        found = sorted(source.pictures, key=lambda picture: picture.source)
        assert found == [(name.encode(), label, name, "train") for name, label in expected]
        assert source.splits == {}


def test_hidden_files_and_folders_are_skipped(data: Data, tmp_path: Path):
    chosen = folder(data, tmp_path, cat=["a.jpg", ".DS_Store"], dog=["b.jpg", "deep/.c.jpg", ".deep/d.jpg"])
    folder(data, tmp_path, **{".cache": ["d.jpg"]})
    with open_source(chosen) as source:
        assert source.classes == ["cat", "dog"]
        assert source.count == 2
        assert sorted(picture.source for picture in source.pictures) == ["cat/a.jpg", "dog/b.jpg"]


def test_missing_folder_is_named(data: Data, tmp_path: Path):
    (tmp_path / "file").write_text("")
    for name in ("nowhere", "file"):
        message = refusal(changed(data, name="folder", folder=str(tmp_path / name)))
        assert f"data.folder = {str(tmp_path / name)!r}" in message


@pytest.mark.parametrize("classes", [{}, {"cat": ["a.jpg"]}, {"cat": ["a.jpg"], ".dog": ["b.jpg"]}])
def test_folder_with_fewer_than_two_classes_is_refused(data: Data, tmp_path: Path, classes: dict[str, list[str]]):
    message = refusal(folder(data, tmp_path, **classes))
    assert f"holds {min(1, len(classes))} class folders" in message
    assert "at least two" in message


@pytest.mark.parametrize("members", [[], [".hidden"]])
def test_class_without_images_is_named(data: Data, tmp_path: Path, members: list[str]):
    assert str(tmp_path / "dog") in refusal(folder(data, tmp_path, cat=["a.jpg"], dog=members))


@pytest.mark.parametrize("name", ["no_such_data_set", "cats_vs_dog", "../cats", "cats vs dogs", "cats_vs_dogs:9.9.9"])
def test_name_that_tfds_does_not_know_is_named(data: Data, name: str):
    assert f"data.name = {name!r}" in refusal(changed(data, name=name))


def test_drawing_is_a_pure_function_of_its_number():
    first, again, other = np.asarray(draw(4)), np.asarray(draw(4)), np.asarray(draw(6))
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 5
    assert jpeg(4) == jpeg(4)


def test_drawings_are_all_different_rgb_pictures_of_one_size():
    pictures = [draw(number) for number in range(20)]
    assert {(picture.mode, picture.size) for picture in pictures} == {("RGB", (96, 96))}
    assert len({picture.tobytes() for picture in pictures}) == 20
    assert min(np.asarray(picture).std() for picture in pictures) > 10


def test_jpeg_holds_the_drawing():
    difference = np.asarray(read_rgb(jpeg(3)), int) - np.asarray(draw(3))
    assert np.abs(difference).mean() < 8


def test_cats_are_even_and_dogs_odd(monkeypatch: pytest.MonkeyPatch):
    drawn = []
    sample = Traits.sample

    def spy(rng: np.random.Generator, label: int) -> Traits:
        drawn.append(CLASSES[label])
        return sample(rng, label)

    monkeypatch.setattr(Traits, "sample", spy)
    for number in (0, 1, 2, 4999):
        draw(number)
    assert drawn == ["cat", "dog", "cat", "dog"]


def test_data_set_labels_its_pictures_by_parity(tmp_path: Path):
    builder = PetSketches(data_dir=tmp_path)
    assert builder.info.features["label"].names == ["cat", "dog"]
    assert pet_sketches.PICTURES == 5000
    for number, (key, example) in enumerate(itertools.islice(builder._generate_examples(), 4)):
        assert key == number
        assert builder.info.features["label"].int2str(example["label"]) == ("cat", "dog")[number % 2]
        assert example["image"] == jpeg(number)


def test_drawn_data_set_is_drawn_anew(data: Data, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pet_sketches, "PICTURES", 3)
    with open_source(data) as source:
        assert (source.name, source.version) == ("pet_sketches", str(PetSketches.VERSION))
        assert (source.classes, source.count) == (["cat", "dog"], 3)
        found = {name: (content, label) for content, label, name, _ in source.pictures}
    assert sorted(found) == [f"pet_sketches/{PetSketches.VERSION}#{number}" for number in range(3)]
    assert sorted(found.values()) == sorted((jpeg(number), number % 2) for number in range(3))


@pytest.fixture(scope="module")
def traits() -> dict[str, np.ndarray]:
    """Each trait of 1,500 cats (row 0) and 1,500 dogs (row 1)."""
    rng = np.random.default_rng(0)
    drawn = [[dataclasses.astuple(Traits.sample(rng, label)) for _ in range(1500)] for label in (0, 1)]
    names = [field.name for field in dataclasses.fields(Traits)]
    return {name: np.array([[row[place] for row in rows] for rows in drawn]) for place, name in enumerate(names)}


def likelihood(field: dataclasses.Field, values: np.ndarray, label: int) -> np.ndarray:
    """Of values of one trait, by the table that the traits are declared in."""
    if "chances" in field.metadata:
        return np.array([field.metadata["chances"][value][label] for value in values.tolist()])
    deviation, low, high = field.metadata["rest"]
    distribution = norm(field.metadata["means"][label], deviation)
    inside = np.where(values == low, distribution.cdf(low), distribution.pdf(values))
    return np.where(values == high, distribution.sf(high), inside)


def test_no_trait_tells_the_class_alone(traits: dict[str, np.ndarray]):
    for field in dataclasses.fields(Traits):
        cats, dogs = traits[field.name]
        assert set(dogs) >= set(cats) or cats.dtype.kind == "f", f"{field.name}: only cats have some value"
        assert set(cats) >= set(dogs) or cats.dtype.kind == "f", f"{field.name}: only dogs have some value"
        if cats.dtype.kind == "f":
            assert min(cats.max(), dogs.max()) > max(cats.min(), dogs.min())
        for label, values in enumerate((cats, dogs)):
            right = likelihood(field, values, label) > likelihood(field, values, 1 - label)
            assert right.mean() < 0.9, f"{field.name} gives the class away"


def test_chances_of_named_traits_add_up_and_are_met(traits: dict[str, np.ndarray]):
    for field in dataclasses.fields(Traits):
        if chances := field.metadata.get("chances"):
            assert np.sum([*chances.values()], axis=0) == pytest.approx([1, 1])
            for (value, of_class), label in itertools.product(chances.items(), (0, 1)):
                count = int((traits[field.name][label] == value).sum())
                assert binomtest(count, 1500, of_class[label]).pvalue > 1e-4, f"{field.name}: {value}"


def test_who_knows_all_traits_is_right_about_98_times_in_100(traits: dict[str, np.ndarray]):
    right = []
    for label in (0, 1):
        evidence = 0
        for field in dataclasses.fields(Traits):
            values = traits[field.name][label]
            evidence = evidence + np.log(likelihood(field, values, label) / likelihood(field, values, 1 - label))
        right.append(evidence > 0)
    assert 0.97 < np.mean(right) < 0.985  # 3000 draws: a standard deviation is 0.003

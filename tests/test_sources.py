"""Where images come from: folders, names that TFDS knows or not, and the drawn data set."""

import dataclasses
import itertools
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from helpers import changed, needs_imagenette
from scipy.stats import binomtest, norm

from distillation.errors import InputError
from distillation.params import Data, Teacher
from distillation.sources import pet_sketches
from distillation.sources.class_names import read_class_names
from distillation.sources.images import read_rgb
from distillation.sources.open import _tfds, official_splits, open_source
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
        found = sorted(source.images, key=lambda image: image.source)
        assert found == [(name.encode(), label, name, "train") for name, label in expected]
        assert source.splits == {}


def test_hidden_files_and_folders_are_skipped(data: Data, tmp_path: Path):
    chosen = folder(data, tmp_path, cat=["a.jpg", ".DS_Store"], dog=["b.jpg", "deep/.c.jpg", ".deep/d.jpg"])
    folder(data, tmp_path, **{".cache": ["d.jpg"]})
    with open_source(chosen) as source:
        assert source.classes == ["cat", "dog"]
        assert source.count == 2
        assert sorted(image.source for image in source.images) == ["cat/a.jpg", "dog/b.jpg"]


def test_images_in_linked_folders_are_found(data: Data, tmp_path: Path):
    folder(data, tmp_path / "elsewhere", more=["b.jpg"], eel=["c.jpg"])
    chosen = folder(data, tmp_path / "photos", cat=["a.jpg"])
    (tmp_path / "photos/cat/linked").symlink_to(tmp_path / "elsewhere/more")
    (tmp_path / "photos/eel").symlink_to(tmp_path / "elsewhere/eel")
    with open_source(chosen) as source:
        assert source.count == 3
        assert sorted(image.source for image in source.images) == ["cat/a.jpg", "cat/linked/b.jpg", "eel/c.jpg"]


def test_film_among_the_images_is_named_before_it_is_read(data: Data, tmp_path: Path):
    chosen = folder(data, tmp_path, cat=["a.jpg"], dog=["b.jpg"])
    with (tmp_path / "dog/film.mov").open("wb") as file:
        file.truncate(6 * 10**9)  # takes no space
    assert "dog/film.mov has 6.0 GB, which no image has" in refusal(chosen)


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


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train"], {}),
        (["all"], {}),
        (["test"], {}),
        (["train", "extra"], {}),
        (["train", "test"], {"train": "train", "test": "test"}),
        (["train", "validation"], {"train": "train", "test": "validation"}),
        (["Training", "val"], {"train": "Training", "test": "val"}),
        (["train", "val", "test"], {"train": "train", "validation": "val", "test": "test"}),
        (["train", "dev", "testing", "extra"], {"train": "train", "validation": "dev", "test": "testing"}),
    ],
)
def test_official_splits_are_known_by_their_names(names: list[str], expected: dict[str, str]):
    assert official_splits(names, "it") == expected


def test_official_splits_that_make_no_sense_are_named():
    with pytest.raises(InputError, match=r"it has test and val, but no split to train on; .*anew"):
        official_splits(["val", "test"], "it")
    with pytest.raises(InputError, match="it has two validation splits, val and valid"):
        official_splits(["train", "valid", "val"], "it")


def by_split(data: Data, directory: Path, **files: list[str]) -> Data:
    """Parameters of a folder of official splits; its files by split, each named by class and file."""
    for split, members in files.items():
        for member in members:
            folder(data, directory / split, **{str(Path(member).parent): [Path(member).name]})
    return changed(data, name="folder", folder=str(directory))


TRAINING = ["cat/1.jpg", "cat/2.jpg", "dog/3.jpg"]


def test_folder_of_splits_keeps_them(data: Data, tmp_path: Path):
    chosen = by_split(data, tmp_path, train=TRAINING, val=["cat/4.jpg", "dog/5.jpg"], Test=["cat/6.jpg", "dog/7.jpg"])
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.md").write_text("no split")
    with open_source(chosen) as source:
        assert (source.classes, source.count) == (["cat", "dog"], 7)
        assert source.splits == {"train": "train", "validation": "val", "test": "Test"}
        found = {image.source: (image.label, image.split) for image in source.images}
    assert found == {
        "train/cat/1.jpg": (0, "train"),
        "train/cat/2.jpg": (0, "train"),
        "train/dog/3.jpg": (1, "train"),
        "val/cat/4.jpg": (0, "validation"),
        "val/dog/5.jpg": (1, "validation"),
        "Test/cat/6.jpg": (0, "test"),
        "Test/dog/7.jpg": (1, "test"),
    }


def test_folder_of_splits_is_taken_together_where_it_is_to_be_split_anew(data: Data, tmp_path: Path):
    chosen = by_split(data, tmp_path, train=TRAINING, test=["cat/6.jpg", "eel/7.jpg"])
    with open_source(changed(chosen, splits="anew")) as source:
        assert (source.classes, source.count, source.splits) == (["cat", "dog", "eel"], 5, {})
        found = {image.source: (image.label, image.split) for image in source.images}
    assert found["test/eel/7.jpg"] == (2, "train")
    assert len(found) == 5


@pytest.mark.parametrize("names", [["val", "test"], ["train", "val", "valid"], ["train"]])
def test_folders_that_are_no_official_splits_may_be_split_anew(data: Data, tmp_path: Path, names: list[str]):
    chosen = by_split(data, tmp_path, **dict.fromkeys(names, TRAINING))
    with open_source(changed(chosen, splits="anew")) as source:
        assert (source.classes, source.count, source.splits) == (["cat", "dog"], 3 * len(names), {})
        assert {image.split for image in source.images} == {"train"}


@pytest.mark.parametrize(("labeled", "unlabeled"), [(".", "more"), ("photos", "photos"), ("photos/of", "photos")])
def test_unlabeled_images_among_the_classes_are_refused(data: Data, tmp_path: Path, labeled: str, unlabeled: str):
    chosen = folder(data, tmp_path / labeled, cat=["1.jpg"], dog=["2.jpg"])
    chosen = changed(chosen, unlabeled=str(tmp_path / unlabeled))
    assert "one lies in the other; they should lie side by side" in refusal(chosen)


def test_only_part_that_is_held_out_is_the_test(data: Data, tmp_path: Path):
    with open_source(by_split(data, tmp_path, train=TRAINING, val=["cat/4.jpg", "dog/5.jpg"])) as source:
        assert source.splits == {"train": "train", "test": "val"}
        assert {image.split for image in source.images} == {"train", "test"}


def test_folder_with_training_images_alone_has_no_official_splits(data: Data, tmp_path: Path):
    with open_source(by_split(data, tmp_path, train=TRAINING)) as source:
        assert (source.classes, source.count, source.splits) == (["cat", "dog"], 3, {})
        assert {image.split for image in source.images} == {"train"}


@pytest.mark.parametrize("classes", [["train", "tram"], ["test", "quiz"], ["test", "train", "tram"]])
def test_class_may_be_called_as_a_split_is(data: Data, tmp_path: Path, classes: list[str]):
    with open_source(folder(data, tmp_path, **{name: ["a.jpg"] for name in classes})) as source:
        assert (source.classes, source.splits) == (sorted(classes), {})


def test_class_may_have_the_word_of_a_split_in_its_name_and_folders_inside(data: Data, tmp_path: Path):
    files = {"freight train": ["1999/a.jpg"], "tram": ["b.jpg"], "test_tube": ["c.jpg"]}
    with open_source(folder(data, tmp_path, **files)) as source:
        assert source.classes == sorted(files)


def test_accents_may_be_apart_as_macos_writes_them(data: Data, tmp_path: Path):
    apart, composed = "Ba\u0308r", "B\u00e4r"
    chosen = by_split(data, tmp_path, train=[f"{apart}/1.jpg", "Bus/2.jpg"], test=[f"{composed}/3.jpg", "Bus/4.jpg"])
    with open_source(chosen) as source:
        assert source.classes == ["Bus", composed]
        assert {Path(image.source).name: image.label for image in source.images} == {
            "1.jpg": 1,
            "2.jpg": 0,
            "3.jpg": 1,
            "4.jpg": 0,
        }
    assert Teacher(classes=["Bus", apart]).classes == ["Bus", composed]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"train": TRAINING, "test": ["cat/4.jpg", "emu/5.jpg"]}, "test/emu is of a class that "),
        ({"train": ["1.jpg"], "test": ["2.jpg"]}, "train holds 0 class folders"),
        ({"train": ["cat/1.jpg"], "test": ["cat/2.jpg"]}, "train holds 1 class folders"),
        ({"train": TRAINING, "test": ["cat/.hidden", "dog/1.jpg"]}, "test/cat holds no images"),
        ({"train": TRAINING, "test": TRAINING, "old": TRAINING}, "old is no split, but stands beside test and train"),
        ({"train": TRAINING, "val": TRAINING, "valid": TRAINING}, "two validation splits, val and valid"),
        ({"val": TRAINING, "test": TRAINING}, "no split to train on"),
        ({"train": TRAINING, "old": TRAINING}, "old is no split, but stands beside train"),
        ({"train": TRAINING, "test": ["4.jpg", "5.jpg"]}, "test holds no class folders"),
        ({"training_set": TRAINING, "test_set": TRAINING}, "rename test_set to test, training_set to train"),
        (
            {"train2017": TRAINING, "val2017": TRAINING, "old": TRAINING},
            "rename train2017 to train, val2017 to validation",
        ),
    ],
)
def test_folder_of_splits_that_makes_no_sense_is_named(data: Data, tmp_path: Path, files: dict, words: str):
    assert words in refusal(by_split(data, tmp_path, **files))


class TwoSplits(tfds.core.GeneratorBasedBuilder):
    """A data set of TFDS with a test without labels, and one more split."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["cat", "dog"])}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: object) -> dict:
        return {
            "train": self._some(0, 6),
            "validation": self._some(6, 4),
            "test": self._some(10, 3, -1),
            "extra": self._some(20, 2),
        }

    def _some(self, first: int, count: int, label: int | None = None):
        for number in range(first, first + count):
            yield number, {"image": jpeg(number), "label": number % 2 if label is None else label}

    _generate_examples = _some


def test_tfds_splits_are_known_and_a_test_without_labels_is_none(tmp_path: Path):
    source = _tfds(TwoSplits(data_dir=tmp_path), "official")
    assert (source.count, source.splits) == (10, {"train": "train", "test": "validation"})
    found = {image.source: image for image in source.images}
    assert {name for name, image in found.items() if image.split == "test"} == {
        f"two_splits/1.0.0#validation-{number}" for number in range(4)
    }
    train = [image for image in found.values() if image.split == "train"]
    assert sorted(image.encoded for image in train) == sorted(map(jpeg, range(6)))


def test_tfds_images_without_labels_are_left_out_where_all_are_split_anew(tmp_path: Path):
    source = _tfds(TwoSplits(data_dir=tmp_path), "anew")
    assert (source.count, source.splits) == (12, {})
    found = sorted((image.encoded, image.label, image.split) for image in source.images)
    assert found == sorted((jpeg(number), number % 2, "train") for number in (*range(10), 20, 21))


def test_tfds_data_set_whose_supervised_key_is_several_features_is_refused(tmp_path: Path):
    info = types.SimpleNamespace(
        features=tfds.features.FeaturesDict({"a": tf.float32, "b": tf.float32}),
        supervised_keys=({"a": "a"}, "b"),
        full_name="table/1.0.0",
    )
    with pytest.raises(InputError, match="'table' is not an image-classification data set"):
        _tfds(types.SimpleNamespace(name="table", info=info), "official")


@needs_imagenette
def test_configuration_and_version_may_be_named(data: Data):
    for name in ("imagenette/160px-v2", "imagenette/160px-v2:1.0.0", "imagenette/160px-v2:1.*.*"):
        with open_source(changed(data, name=name)) as source:
            assert (source.name, source.version) == ("imagenette/160px-v2", "1.0.0")
            assert (source.count, source.splits) == (9469 + 3925, {"train": "train", "test": "validation"})


NAMED = "# ours\n\nn1 tench # a fish\n n3\tFrench horn\nn2 gas pump\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("# nothing\n\n", ["n1", "n2", "n3"]),
        (NAMED, ["tench", "gas pump", "French horn"]),
        ("\ufefftench\r\ngas pump\r\nFrench horn", ["tench", "gas pump", "French horn"]),
        ("n1\nn2\nn3", ["n1", "n2", "n3"]),
    ],
)
def test_class_names_come_from_a_file(tmp_path: Path, content: str, expected: list[str]):
    (tmp_path / "names.txt").write_text(content, encoding="utf-8")
    assert read_class_names(tmp_path / "names.txt", ["n1", "n2", "n3"]) == expected


@pytest.mark.parametrize("between", [" ", "\t", ", ", ": ", ","])
def test_class_names_may_have_spaces_and_accents(tmp_path: Path, between: str):
    classes = ["Ba\u0308r", "fox", "fox cub"]  # the first as macOS writes it
    lines = [f"fox cub{between}Young fox", f"B\u00e4r{between}Brown bear", f"fox{between}Red fox"]
    (tmp_path / "names.txt").write_text("\n".join(lines), encoding="utf-8")
    assert read_class_names(tmp_path / "names.txt", classes) == ["Brown bear", "Red fox", "Young fox"]


def test_names_alone_of_numbered_classes_are_refused_where_their_order_is_unclear(tmp_path: Path):
    path, names = tmp_path / "names.txt", [f"flower {number}" for number in range(1, 13)]
    path.write_text("\n".join(names))
    with pytest.raises(InputError, match=r"in the order of texts \(1, 10, 11, \.\.\.\); each line should"):
        read_class_names(path, sorted(str(number) for number in range(1, 13)))
    padded = [f"{number:02d}" for number in range(1, 13)]
    assert read_class_names(path, padded) == names
    path.write_text("\n".join(f"{number} flower {number}" for number in range(1, 13)))
    assert read_class_names(path, ["1", "10", *map(str, range(2, 10)), "11", "12"])[1] == "flower 10"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (NAMED + "n4 emu", "begins with n4, which is no class"),
        (NAMED.replace("n3\t", ""), "begins with French, which is no class"),
        (NAMED.replace("gas pump", ""), "one line for class n2, and a name in it"),
        (NAMED + "n1 trench", "one line for class n1"),
        ("n1 tench", "no line for class n2"),
        (NAMED.replace("gas pump", "tench"), "the name tench twice"),
        ("tench\ngas pump", "has 2 names; it should have one for each of the 3 classes"),
        ("a\nb\na", "the name a twice"),
        ("n3\nn1\nn2", "has the classes themselves in another order than the data"),
        (b"\xff\xfe", "cannot be read"),
        (None, "is no file"),
    ],
)
def test_class_names_that_make_no_sense_are_named(tmp_path: Path, content: str | bytes | None, words: str):
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_class_names(path, ["n1", "n2", "n3"])
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["no_such_data_set", "cats_vs_dog", "../cats", "cats vs dogs", "cats_vs_dogs:9.9.9"])
def test_name_that_tfds_does_not_know_is_named(data: Data, name: str):
    assert f"data.name = {name!r}" in refusal(changed(data, name=name))


def test_drawing_is_a_pure_function_of_its_number():
    first, again, other = np.asarray(draw(4)), np.asarray(draw(4)), np.asarray(draw(6))
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 5
    assert jpeg(4) == jpeg(4)


def test_drawings_are_all_different_rgb_images_of_one_size():
    images = [draw(number) for number in range(20)]
    assert {(image.mode, image.size) for image in images} == {("RGB", (96, 96))}
    assert len({image.tobytes() for image in images}) == 20
    assert min(np.asarray(image).std() for image in images) > 10


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


def test_data_set_labels_its_images_by_parity(tmp_path: Path):
    builder = PetSketches(data_dir=tmp_path)
    assert builder.info.features["label"].names == ["cat", "dog"]
    assert (pet_sketches.TRAIN, pet_sketches.TEST) == (4000, 6000)
    for number, (key, example) in enumerate(builder._generate_examples(range(4))):
        assert key == number
        assert builder.info.features["label"].int2str(example["label"]) == ("cat", "dog")[number % 2]
        assert example["image"] == jpeg(number)


def test_drawn_data_set_is_drawn_anew(data: Data, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pet_sketches, "TRAIN", 3)
    monkeypatch.setattr(pet_sketches, "TEST", 2)
    with open_source(data) as source:
        assert (source.name, source.version) == ("pet_sketches", str(PetSketches.VERSION))
        assert (source.classes, source.count) == (["cat", "dog"], 5)
        found = list(source.images)
    for split, numbers in (("train", range(3)), ("test", range(3, 5))):
        drawn = sorted((content, label) for content, label, _, of in found if of == split)
        assert drawn == sorted((jpeg(number), number % 2) for number in numbers)


@pytest.fixture(scope="module")
def traits() -> dict[str, np.ndarray]:
    """Each trait of 1,500 cats (row 0) and 1,500 dogs (row 1)."""
    rng = np.random.default_rng(0)
    drawn = [[dataclasses.astuple(Traits.sample(rng, label)) for _ in range(1500)] for label in (0, 1)]
    names = [field.name for field in dataclasses.fields(Traits)]
    return {name: np.array([[row[place] for row in rows] for rows in drawn]) for place, name in enumerate(names)}


def likelihood(field: dataclasses.Field, values: np.ndarray, label: int) -> np.ndarray:
    """The likelihood of values of one trait, by the table that declares the traits."""
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

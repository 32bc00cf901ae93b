"""Records: the way through the shards and back, and damage that must not pass."""

import hashlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import labels_hidden, random_examples, split_examples, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from distillation.data import records
from distillation.data.records import Records, decode, read_manifest
from distillation.data.splits import UNLABELED, Example
from distillation.errors import InputError

CLASSES = ["ant", "bee", "cow"]


def split(examples: list[Example]) -> dict[str, list[Example]]:
    return split_examples(examples, CLASSES)


@pytest.fixture
def sharded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of records whose training split has several shards."""
    monkeypatch.setattr(records, "SHARD_IMAGES", 5)
    write(tmp_path / "records", split(random_examples(27, 3)), CLASSES)
    return tmp_path / "records"


def shards(directory: Path) -> list[Path]:
    return sorted(directory.glob("train-*.tfrecord"))


def test_records_come_back_in_id_order_through_several_shards(sharded: Path):
    expected = split(random_examples(27, 3))["train"]
    assert [path.name for path in shards(sharded)] == [f"train-{shard:05d}-of-00004.tfrecord" for shard in range(4)]
    read = Records("train", directory=sharded)
    assert len(read) == len(expected)
    assert read.ids.tolist() == sorted(read.ids) == [example.id for example in expected]
    assert read.labels.tolist() == [example.label for example in expected]
    assert read.sources.tolist() == [example.source for example in expected]
    assert read.manifest.classes == CLASSES
    assert int(read.dataset().cardinality()) == len(expected)
    for serialised, example in zip(read.dataset(), expected, strict=True):
        decoded = decode(serialised, 32)
        assert (decoded["id"].numpy().decode(), int(decoded["label"])) == (example.id, example.label)
        by_pillow = np.asarray(Image.open(io.BytesIO(example.jpeg)), int)
        assert np.abs(decoded["image"].numpy() - by_pillow).max() <= 1


def test_labeled_records_leave_out_what_is_unlabeled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(records, "SHARD_IMAGES", 5)
    splits = split(random_examples(60, 3))
    write(tmp_path / "records", splits, CLASSES, labeled_fraction=0.3)
    hidden = labels_hidden(splits["train"], 0.3)
    labeled = [example for example in hidden if example.label != UNLABELED]
    assert 3 <= len(labeled) < len(splits["train"])
    read = Records("train", labeled_only=True, directory=tmp_path / "records")
    assert read.ids.tolist() == [example.id for example in labeled]
    assert read.labels.tolist() == [example.label for example in labeled]
    assert [decode(serialised, 32)["id"].numpy().decode() for serialised in read.dataset()] == read.ids.tolist()
    assert int(read.dataset().cardinality()) == len(read) == len(labeled)
    assert len(Records("train", directory=tmp_path / "records")) == len(splits["train"])


@pytest.mark.parametrize("at_most", [0, 5, 20, 30, 1000])
def test_unlabeled_records_fill_up_to_a_number(tmp_path: Path, at_most: int):
    splits = split(random_examples(60, 3))
    write(tmp_path / "records", splits, CLASSES, labeled_fraction=0.3)
    everything = Records("train", directory=tmp_path / "records")
    labels = dict(zip(everything.ids.tolist(), everything.labels.tolist(), strict=True))
    labeled = [name for name, label in labels.items() if label != UNLABELED]
    others = [name for name, label in labels.items() if label == UNLABELED]
    read = Records("train", directory=tmp_path / "records", at_most=at_most)
    assert read.ids.tolist() == sorted(labeled + others[: max(0, at_most - len(labeled))])
    assert len(read) == read.manifest.taught(at_most)
    assert [decode(serialised, 32)["id"].numpy().decode() for serialised in read.dataset()] == read.ids.tolist()


def test_fewer_records_are_those_that_are_wanted(tmp_path: Path):
    write(tmp_path / "records", split(random_examples(60, 3)), CLASSES, labeled_fraction=0.3)
    labeled = Records("train", labeled_only=True, directory=tmp_path / "records")
    wanted = np.arange(len(labeled)) % 3 == 1
    fewer = labeled.only(wanted).only(np.arange(wanted.sum()) > 0)
    kept = np.flatnonzero(wanted)[1:]
    assert fewer.ids.tolist() == labeled.ids[kept].tolist()
    assert fewer.labels.tolist() == labeled.labels[kept].tolist()
    assert [decode(one, 32)["id"].numpy().decode() for one in fewer.dataset()] == fewer.ids.tolist()
    assert int(fewer.dataset().cardinality()) == len(fewer) == len(kept) < len(labeled)


def test_equal_splits_give_equal_files(sharded: Path, tmp_path: Path):
    write(tmp_path / "again", split(random_examples(27, 3)), CLASSES)
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}
        for directory in (sharded, tmp_path / "again")
    ]
    assert len(digests[0]) > 4
    assert digests[0] == digests[1]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_shard_is_refused(sharded: Path, data: st.DataObject):
    """The shard is cut off anywhere, has any bit flipped, or has extra bytes."""
    shard = data.draw(st.sampled_from(shards(sharded)))
    content = shard.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    flipped = bytes([content[place] ^ 1 << data.draw(st.integers(0, 7))])
    inserted = data.draw(st.binary(min_size=1, max_size=20))
    damaged = {
        "cut": content[:place],
        "flipped": content[:place] + flipped + content[place + 1 :],
        "inserted": content[:place] + inserted + content[place:],
    }
    try:
        shard.write_bytes(damaged[data.draw(st.sampled_from(sorted(damaged)))])
        with pytest.raises(InputError, match=r"records/train-\*\.tfrecord"):
            Records("train", directory=sharded)
    finally:
        shard.write_bytes(content)


def test_missing_shards_are_noticed(sharded: Path):
    shards(sharded)[2].unlink()
    with pytest.raises(InputError, match=r"hold 13 images; manifest\.json says 18"):
        Records("train", directory=sharded)
    for shard in shards(sharded):
        shard.unlink()
    with pytest.raises(InputError, match=r"hold 0 images; manifest\.json says 18"):
        Records("train", directory=sharded)


def test_count_that_the_shards_do_not_hold_is_noticed(sharded: Path):
    manifest = json.loads((sharded / "manifest.json").read_text())
    manifest["counts"]["train"]["bee"] += 1
    (sharded / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest\.json says"):
        Records("train", directory=sharded)


@pytest.mark.parametrize(("old", "new"), [(2, 3), (0, -2)])
def test_label_that_no_class_has_is_noticed(sharded: Path, tmp_path: Path, old: int, new: int):
    examples = [
        replace(example, label=new) if example.label == old else example
        for example in split(random_examples(27, 3))["train"]
    ]
    write(tmp_path / "other", {"train": examples, "test": []}, CLASSES)
    shutil.copy(sharded / "manifest.json", tmp_path / "other")
    with pytest.raises(InputError, match=r"train-\*\.tfrecord hold labels beyond the manifest's 3 classes"):
        Records("train", directory=tmp_path / "other")


def test_records_of_the_pipeline_are_read_where_no_directory_is_named(sharded: Path, monkeypatch: pytest.MonkeyPatch):
    (sharded.parent / "data").mkdir()
    sharded.rename(sharded.parent / "data/records")
    monkeypatch.chdir(sharded.parent)
    assert read_manifest().classes == CLASSES
    assert len(Records("train")) == 18


@pytest.mark.parametrize("labeled_only", [False, True])
def test_batches_hold_the_images_in_id_order(tmp_path: Path, labeled_only: bool):
    write(tmp_path / "records", split(random_examples(60, 3)), CLASSES, labeled_fraction=0.5)
    read = Records("train", labeled_only, tmp_path / "records")
    batches = [*read.batches(8).as_numpy_iterator()]
    *full, last = (len(batch["id"]) for batch in batches)
    assert set(full) == {8}
    assert last == len(read) % 8 != 0
    assert [name.decode() for batch in batches for name in batch["id"]] == read.ids.tolist()
    assert [label for batch in batches for label in batch["label"]] == read.labels.tolist()
    decoded = [decode(serialised, 32)["image"].numpy() for serialised in read.dataset()]
    assert np.array_equal(np.concatenate([batch["image"] for batch in batches]), decoded)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"classes": ["a", "b"]}', '{"colour": 1}', "3", "null"])
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: str):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_missing_records_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"manifest\.json is missing.*dvc repro"):
        Records("train", directory=tmp_path / "nowhere")

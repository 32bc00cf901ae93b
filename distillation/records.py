"""Pictures as TFRecord shards: split, written and read."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from distillation.errors import InputError, reason
from distillation.files import read_json, write_json

SPLITS = ("train", "validation", "test")
SHARD_IMAGES = 2048
NEAR_BITS = 4  # of the 64 of a perceptual hash
UNLABELED = -1
ID_LENGTH = 16  # hexadecimal digits, 64 bits: a collision among a million pictures has odds of 3 in 100 million


@dataclass(frozen=True)
class Example:
    """One picture; `id` is a digest of its source bytes, so it does not depend on where the picture lay.

    A training picture's `label` may be `UNLABELED`.
    """

    id: str
    label: int
    source: str
    jpeg: bytes


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says of the records beside it.

    `counts` is images by split and class name, `labeled` the training images whose label is not hidden;
    `near_duplicates` is how many images of a split resemble one of the training split (see `resembling`).
    """

    classes: list[str]
    counts: dict[str, dict[str, int]]
    labeled: dict[str, int]
    near_duplicates: dict[str, int]
    image_size: int
    source: dict[str, str]
    duplicates_dropped: int
    conflicting_duplicates_dropped: int

    def size(self, split: str) -> int:
        """Number of images in a split."""
        return sum(self.counts[split].values())


def read_manifest(directory: str | Path) -> Manifest:
    """Read `manifest.json`; `InputError` where it is missing or no manifest."""
    path = Path(directory) / "manifest.json"
    try:
        return Manifest(**read_json(path))
    except TypeError:
        raise InputError(f"{path} is not a manifest of this version: run `dvc repro`") from None


def image_id(encoded: bytes) -> str:
    """First 64 bits of the SHA-256 of a picture's source bytes, as 16 hexadecimal digits."""
    return hashlib.sha256(encoded).hexdigest()[:ID_LENGTH]


def drop_duplicates(examples: Iterable[Example]) -> tuple[list[Example], int, int]:
    """Keep one of each set of equal pictures, and none where the copies carry different labels.

    Returns the kept examples in id order, how many copies were dropped, and how many pictures were
    dropped because their labels contradict each other.
    """
    by_id: dict[str, list[Example]] = {}
    for example in examples:
        by_id.setdefault(example.id, []).append(example)
    kept, duplicates, conflicting = [], 0, 0
    for _, copies in sorted(by_id.items()):
        if len({copy.label for copy in copies}) > 1:
            conflicting += len(copies)
        else:
            kept.append(min(copies, key=lambda copy: copy.source))
            duplicates += len(copies) - 1
    return kept, duplicates, conflicting


def stratified_split(
    examples: Sequence[Example],
    classes: Sequence[str],
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    max_images: int | None = None,
) -> dict[str, list[Example]]:
    """Split by rank of sha256(seed, id) within each class: the order of `examples` does not matter.

    With `max_images`, that many are taken first, in the classes' proportions (but three each), by the same rank.
    Every split comes back in id order and holds at least one picture of every class; `InputError` where a
    class has too few for that.
    """
    share = 1 if max_images is None else min(1, max_images / max(1, len(examples)))
    splits: dict[str, list[Example]] = {name: [] for name in SPLITS}
    for label, name in enumerate(classes):
        of_class = _ranked((example for example in examples if example.label == label), seed)
        of_class = of_class[: max(3, round(len(of_class) * share))]
        count = len(of_class)
        if count < len(SPLITS):
            raise InputError(f"class {name} has {count} different images; it should have at least {len(SPLITS)}")
        test = min(max(1, round(count * test_fraction)), count - 2)
        validation = min(max(1, round(count * validation_fraction)), count - test - 1)
        splits["test"] += of_class[:test]
        splits["validation"] += of_class[test : test + validation]
        splits["train"] += of_class[test + validation :]
    return {name: sorted(split, key=lambda example: example.id) for name, split in splits.items()}


def hide_labels(examples: Sequence[Example], labeled_fraction: float, seed: int) -> list[Example]:
    """Leave that share of each class its label, one picture at least; all others become `UNLABELED`.

    The order stays. By rank, as in the split: what a smaller share keeps, a larger one keeps too.
    """
    kept: set[str] = set()
    for label in {example.label for example in examples}:
        of_class = _ranked((example for example in examples if example.label == label), seed)
        kept.update(example.id for example in of_class[: max(1, round(len(of_class) * labeled_fraction))])
    return [example if example.id in kept else replace(example, label=UNLABELED) for example in examples]


def resembling(hashes: np.ndarray, reference: np.ndarray) -> int:
    """How many of `hashes` (n,) uint64 differ from one of `reference` (m,) uint64 in at most `NEAR_BITS` bits."""
    return sum(bool((np.bitwise_count(reference ^ value) <= NEAR_BITS).any()) for value in hashes)


def write_records(directory: Path, splits: dict[str, list[Example]], manifest: Manifest) -> None:
    """Write every split as shards of at most `SHARD_IMAGES` pictures, and the manifest."""
    directory.mkdir(parents=True)
    for name, examples in splits.items():
        shards = math.ceil(len(examples) / SHARD_IMAGES)
        for shard in range(shards):
            path = directory / f"{name}-{shard:05d}-of-{shards:05d}.tfrecord"
            with tf.io.TFRecordWriter(str(path)) as writer:
                for example in examples[shard * SHARD_IMAGES : (shard + 1) * SHARD_IMAGES]:
                    writer.write(_serialise(example))
    write_json(directory / "manifest.json", vars(manifest))


def class_counts(examples: Sequence[Example], classes: Sequence[str]) -> dict[str, int]:
    """Number of examples by class name, zeros included."""
    found = Counter(example.label for example in examples)
    return {name: found[label] for label, name in enumerate(classes)}


class Records:
    """One split of a directory of records, in id order; with `labeled_only`, without what is `UNLABELED`.

    `ids` (n,) str, `labels` (n,) int64 and `sources` (n,) str are held in memory; the pictures stream.
    Raises `InputError` where shards are missing, corrupt, or hold another count than the manifest says.
    """

    def __init__(self, directory: str | Path, split: str, labeled_only: bool = False):
        self.directory = Path(directory)
        self.manifest = read_manifest(directory)
        pattern = f"{split}-*.tfrecord"
        shards = self.directory / pattern
        self.files = sorted(map(str, self.directory.glob(pattern)))
        rows = []
        try:
            for serialised in tf.data.TFRecordDataset(self.files).batch(4096):
                parsed = tf.io.parse_example(serialised, _FEATURES)
                rows.append([parsed[key].numpy() for key in ("id", "label", "source")])
        except tf.errors.OpError as error:
            raise InputError(f"{shards} is corrupt ({reason(error)}): run `dvc repro`") from None
        expected = self.manifest.size(split)
        found = sum(len(row[0]) for row in rows)
        if found != expected:
            raise InputError(f"{shards} hold {found} images; manifest.json says {expected}: run `dvc repro`")
        ids, labels, sources = (np.concatenate(column) for column in zip(*rows, strict=True))
        classes = len(self.manifest.classes)
        if labels.min() < UNLABELED or labels.max() >= classes:
            raise InputError(f"{shards} hold labels beyond the manifest's {classes} classes: run `dvc repro`")
        self._taken = labels != UNLABELED if labeled_only else np.ones(found, bool)
        ids, sources = (np.array([text.decode() for text in column]) for column in (ids, sources))
        self.ids, self.labels, self.sources = (column[self._taken] for column in (ids, labels, sources))

    def __len__(self) -> int:
        return len(self.ids)

    def dataset(self) -> tf.data.Dataset:
        """Serialised examples in id order: scalar strings."""
        taken = tf.data.Dataset.from_tensor_slices(self._taken)
        examples = tf.data.Dataset.zip(taken, tf.data.TFRecordDataset(self.files))
        examples = examples.filter(lambda take, _: take).map(lambda _, serialised: serialised)
        return examples.apply(tf.data.experimental.assert_cardinality(len(self)))

    def batches(self, size: int) -> tf.data.Dataset:
        """Batches of `size` decoded examples in id order, the last one smaller where they don't divide."""
        return self.dataset().map(lambda one: decode(one, self.manifest.image_size), tf.data.AUTOTUNE).batch(size)


def decode(serialised: tf.Tensor, image_size: int) -> dict[str, tf.Tensor]:
    """Decode one serialised example: `image` (size, size, 3) uint8, `id` scalar string, `label` scalar int64."""
    parsed = tf.io.parse_single_example(serialised, _FEATURES)
    image = tf.io.decode_jpeg(parsed["jpeg"], channels=3, dct_method="INTEGER_ACCURATE")
    return {"image": tf.ensure_shape(image, (image_size, image_size, 3)), "id": parsed["id"], "label": parsed["label"]}


_FEATURES = {
    "id": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
    "source": tf.io.FixedLenFeature([], tf.string),
    "jpeg": tf.io.FixedLenFeature([], tf.string),
}


def _ranked(examples: Iterable[Example], seed: int) -> list[Example]:
    return sorted(examples, key=lambda example: hashlib.sha256(f"{seed} {example.id}".encode()).digest())


def _serialise(example: Example) -> bytes:
    def strings(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {
        "id": strings(example.id.encode()),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[example.label])),
        "source": strings(example.source.encode()),
        "jpeg": strings(example.jpeg),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)

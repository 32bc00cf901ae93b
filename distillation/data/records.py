"""Images as TFRecord shards: written and read."""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from distillation.data.splits import UNLABELED, Example
from distillation.errors import InputError, reason
from distillation.files import read_json, write_json

RECORDS = Path("data/records")
SHARD_IMAGES = 2048


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says of the records beside it.

    `counts` is images by split and class name, `unlabeled` those of the training split that never had a label, and
    `labeled` its images by class whose label is not hidden. `near_duplicates` is how many images of a split resemble
    one of the training split (see `resembling`). `oblong` tells how images became squares. `official_splits` gives the
    source's names of the splits that were taken as they are. `overlapping_dropped` counts, by split, the images that
    were dropped because an official split of higher rank (test, then validation) holds the same or a similar image.
    """

    classes: list[str]
    counts: dict[str, dict[str, int]]
    labeled: dict[str, int]
    unlabeled: int
    near_duplicates: dict[str, int]
    image_size: int
    oblong: str
    source: dict[str, str]
    duplicates_dropped: int
    conflicting_duplicates_dropped: int
    official_splits: dict[str, str]
    overlapping_dropped: dict[str, int]

    @property
    def data(self) -> str:
        """Name and version of the source; a folder has no version."""
        return f"{self.source['name']} {self.source['version']}".strip()

    def size(self, split: str) -> int:
        """Number of images in a split, those without a label included."""
        return sum(self.counts[split].values()) + (self.unlabeled if split == "train" else 0)

    def taught(self, answered: int) -> int:
        """How many training images teacher and distilled student see, where the budget is that many answers.

        All labeled ones, and as many unlabeled ones as there are answers left.
        """
        return max(sum(self.labeled.values()), min(self.size("train"), answered))


def read_manifest(directory: str | Path = RECORDS) -> Manifest:
    """Read `manifest.json`; `InputError` where it is missing or no manifest."""
    path = Path(directory) / "manifest.json"
    try:
        return Manifest(**read_json(path))
    except TypeError:
        raise InputError(f"{path} is not a manifest of this version: run `dvc repro`") from None


def write_records(directory: Path, examples: Iterable[tuple[str, Example]], manifest: Manifest) -> None:
    """Write `examples`, each with the name of its split, as shards of at most `SHARD_IMAGES`, and the manifest.

    They keep their order, and are as many as the manifest says.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written: dict[str, int] = dict.fromkeys(manifest.counts, 0)
    writers: dict[str, tf.io.TFRecordWriter] = {}
    for split, example in examples:
        shard, place = divmod(written[split], SHARD_IMAGES)
        if place == 0:
            if shard:
                writers[split].close()
            shards = math.ceil(manifest.size(split) / SHARD_IMAGES)
            path = directory / f"{split}-{shard:05d}-of-{shards:05d}.tfrecord"
            writers[split] = tf.io.TFRecordWriter(str(path))
        writers[split].write(_serialise(example))
        written[split] += 1
    for writer in writers.values():
        writer.close()
    write_json(directory / "manifest.json", vars(manifest))


class Records:
    """One split of a directory of records, in id order.

    With `labeled_only`, without what is `UNLABELED`; with `at_most`, unlabeled images only fill up to this number, the
    first ones in id order.

    `labels` (n,) int64 are held in memory; all else is read when it is asked for, and the images stream.
    Raises `InputError` where shards are missing, corrupt, or hold another count than the manifest says.
    """

    def __init__(
        self, split: str, labeled_only: bool = False, directory: str | Path = RECORDS, at_most: int | None = None
    ):
        self.directory = Path(directory)
        self.manifest = read_manifest(directory)
        pattern = f"{split}-*.tfrecord"
        shards = self.directory / pattern
        self.files = sorted(map(str, self.directory.glob(pattern)))
        try:
            labels = self._column("label")
        except tf.errors.OpError as error:
            raise InputError(f"{shards} is corrupt ({reason(error)}): run `dvc repro`") from None
        expected, found = self.manifest.size(split), len(labels)
        if found != expected:
            raise InputError(f"{shards} hold {found} images; manifest.json says {expected}: run `dvc repro`")
        classes = len(self.manifest.classes)
        if labels.min() < UNLABELED or labels.max() >= classes:
            raise InputError(f"{shards} hold labels beyond the manifest's {classes} classes: run `dvc repro`")
        unlabeled = np.flatnonzero(labels == UNLABELED)
        room = 0 if labeled_only else found if at_most is None else max(0, at_most - (found - len(unlabeled)))
        self._taken = np.ones(found, bool)
        self._taken[unlabeled[room:]] = False
        self.labels = labels[self._taken]

    @property
    def ids(self) -> np.ndarray:
        """The images' ids, (n,) str."""
        return self._column("id")[self._taken].astype(str)

    @property
    def sources(self) -> np.ndarray:
        """Where the images come from, (n,) str: a path in their folder, or a number in their TFDS split."""
        return np.array([source.decode() for source in self._column("source")[self._taken]])

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, wanted: np.ndarray) -> "Records":
        """The same split with fewer images: `wanted` (n,) bool says which of these are left."""
        fewer = copy.copy(self)
        fewer._taken = self._taken.copy()
        fewer._taken[self._taken] = wanted
        fewer.labels = self.labels[wanted]
        return fewer

    def _column(self, name: str) -> np.ndarray:
        """One feature of every example in the shards."""
        examples = tf.data.TFRecordDataset(self.files).batch(256)  # whole ones, images included
        parsed = examples.map(lambda serialised: tf.io.parse_example(serialised, {name: _FEATURES[name]})[name])
        batches = [*parsed.as_numpy_iterator()]
        return np.concatenate(batches) if batches else np.array([])

    def dataset(self) -> tf.data.Dataset:
        """Serialised examples in id order: scalar strings."""
        taken = tf.data.Dataset.from_tensor_slices(self._taken)
        examples = tf.data.Dataset.zip(taken, tf.data.TFRecordDataset(self.files))
        examples = examples.filter(lambda take, _: take).map(lambda _, serialised: serialised)
        return examples.apply(tf.data.experimental.assert_cardinality(len(self)))

    def batches(self, size: int) -> tf.data.Dataset:
        """Batches of `size` decoded examples in id order (see `decode`), the last one smaller where need be."""
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

"""Many classes of few images, made from data sets with few classes: `python -m studies.many_classes photos`.

Splits each class of two data sets of TensorFlow Datasets into groups of images that look alike to MobileNetV2: breeds
and poses, say. Each group becomes a class of the folder: there are 96, each with up to 61 images in `train/`, 61 in
`val/` and 6 in `test/`. docs/results.md has what came of it.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import stages  # noqa: F401  imports TensorFlow, and keeps its greeting from the terminal

# isort: split
import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from distillation.console import note
from distillation.errors import InputError
from distillation.files import replacing
from distillation.inference.forward import BATCH, forward_pass, predict
from distillation.networks.teachers import HEAD, build_teacher
from distillation.params import Teacher

GROUPS = {"imagenette/160px-v2": 5, "cats_vs_dogs": 23}  # of each class, by data set
MOST = 14_000  # images of a data set
SPLITS = {"train": 61, "val": 61, "test": 6}  # images of each group
TEACHER = Teacher(weights="imagenet", width=1.0, image_size=160)


def main() -> None:
    parser = argparse.ArgumentParser("python -m studies.many_classes", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a new folder")
    folder = parser.parse_args().folder
    try:
        if folder.exists():
            raise InputError(f"{folder} exists: name a new folder")
        with replacing(folder) as temporary:
            write_groups(temporary)
    except InputError as error:
        sys.exit(f"error: {error}")


def write_groups(folder: Path) -> None:
    """Write the images to `folder/SPLIT/CLASS/NUMBER.jpg`, as the data sets store them."""
    images, labels, groups = [], [], []
    for name, count in GROUPS.items():
        for jpeg, label in _stored(name):
            images.append(jpeg)
            labels.append(label + len(groups))
        groups += [count] * (1 + max(labels) - len(groups))
    network = build_teacher(TEACHER, classes=2)
    features = forward_pass(keras.Model(network.input, {"features": network.get_layer(HEAD).input}))
    decoded = tf.data.Dataset.from_tensor_slices(images).map(_decoded, tf.data.AUTOTUNE).batch(BATCH)
    seen = PCA(128, random_state=0).fit_transform(predict(features, decoded, "features")["features"])
    rng, written = np.random.default_rng(0), 0
    ends = np.cumsum([*SPLITS.values()])
    for label, count in enumerate(groups):
        members = np.flatnonzero(np.array(labels) == label)
        for group, typical in enumerate(typical_groups(seen[members], count, ends[-1])):
            chosen = rng.permutation(members[typical])  # of a small group, each split has its share
            parts = np.split(chosen, len(chosen) * ends[:-1] // ends[-1])
            for split, part in zip(SPLITS, parts, strict=True):
                directory = folder / split / f"{label:02}_{group:02}"
                directory.mkdir(parents=True)
                for number in part:
                    (directory / f"{number:05}.jpg").write_bytes(images[number])
                written += len(part)
    note(f"{written:,} images of {sum(groups)} classes")


def typical_groups(features: np.ndarray, count: int, most: int) -> list[np.ndarray]:
    """The rows of `features`, (n, channels), of each of `count` groups: at most `most`, the least ambiguous ones.

    Groups are those of k-means; a row is the less ambiguous, the nearer it is to its group's mean than to the next.
    """
    means = KMeans(count, n_init=4, random_state=0).fit(features)
    distances = np.sort(means.transform(features), axis=1)
    rows = np.argsort(distances[:, 0] - distances[:, 1])
    return [rows[means.labels_[rows] == group][:most] for group in range(count)]


def _stored(name: str) -> Iterator[tuple[bytes, int]]:
    """The first `MOST` images of a data set, encoded as they are stored, with their labels."""
    data = tfds.load(name, decoders={"image": tfds.decode.SkipDecoding()})
    splits = sorted(data, key=["train", "validation"].index)
    rows = (row for split in splits for row in data[split].as_numpy_iterator())
    for _, row in zip(range(MOST), rows, strict=False):
        yield row["image"], int(row["label"])


def _decoded(jpeg: tf.Tensor) -> tf.Tensor:
    return tf.image.resize(tf.image.decode_jpeg(jpeg, channels=3), [TEACHER.image_size] * 2)


if __name__ == "__main__":
    main()

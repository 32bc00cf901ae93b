"""Read the data set, drop copies, split it, and write it as TFRecords (`data/records`)."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from distillation.console import progress, run
from distillation.data.records import RECORDS, Manifest, write_records
from distillation.data.splits import (
    LEFT_OUT,
    SPLITS,
    TRAIN,
    VALIDATION,
    Example,
    class_counts,
    drop_copies,
    hide_labels,
    image_id,
    overlapping,
    resembling,
    stratified_split,
)
from distillation.data.spool import Spool
from distillation.errors import InputError
from distillation.files import replacing
from distillation.parallel import map_in_order
from distillation.params import Data, Params
from distillation.sources.class_names import read_class_names
from distillation.sources.images import perceptual_hash, square_jpeg
from distillation.sources.open import Picture, Source, open_source


def main(params: Params) -> str:
    """Write the records of every split and their manifest.

    Each image is read once, and lies on disk from then on. In memory there are a few bytes for each, from which
    everything is decided.
    """
    data = params.data
    with replacing(RECORDS) as directory:
        with open_source(data) as source:
            classes = read_class_names(Path(data.class_names), source.classes)
            spool = Spool(directory / "spool", progress(_examples(source, data.image_size), source.count, "prepare"))
        splits, labels, manifest = _place(spool, source, classes, data)
        placed = (
            (SPLITS[split], replace(example, label=label))
            for example, split, label in zip(spool, map(int, splits), map(int, labels), strict=True)
            if split != LEFT_OUT
        )
        write_records(directory, placed, manifest)
        shutil.rmtree(directory / "spool")
    sizes = ", ".join(f"{manifest.size(name):,} {name}" for name in SPLITS)
    return f"prepare: {sizes} images of {len(classes)} classes -> {RECORDS}"


def _examples(source: Source, image_size: int) -> Iterator[tuple[Example, int]]:
    """Every picture as it is stored, with its perceptual hash."""

    def to_example(picture: Picture) -> tuple[Example, int]:
        if not 0 <= picture.label < len(source.classes):
            labels = f"0..{len(source.classes) - 1}"
            raise InputError(f"{picture.source} has label {picture.label}; it should be one of {labels}")
        try:
            jpeg = square_jpeg(picture.encoded, image_size)
        except InputError as error:
            raise InputError(f"{picture.source}: {error}") from None
        name, split = image_id(picture.encoded), SPLITS.index(picture.split)
        return Example(name, picture.label, picture.source, jpeg, split), perceptual_hash(jpeg)

    return map_in_order(to_example, source.pictures)


def _place(spool: Spool, source: Source, classes: list[str], data: Data) -> tuple[np.ndarray, np.ndarray, Manifest]:
    """The split, or `LEFT_OUT`, and the label of each example in the spool: (n,) int8 and (n,) int32."""
    dropped = drop_copies(spool.ids, spool.labels, spool.splits)
    stays = ~np.logical_or.reduce([*dropped.values()])
    dropped["overlapping"] |= overlapping(spool.hashes, spool.splits, stays)
    stays &= ~dropped["overlapping"]
    splits, labels = np.full(len(spool.ids), LEFT_OUT, np.int8), spool.labels.copy()
    splits[stays] = stratified_split(
        spool.ids[stays],
        spool.labels[stays],
        spool.splits[stays],
        classes,
        data.validation_fraction,
        data.test_fraction,
        data.seed,
        data.fold,
        data.max_images,
    )
    of_split = {name: splits == number for number, name in enumerate(SPLITS)}
    counts = {name: class_counts(labels[mask], classes) for name, mask in of_split.items()}
    train = of_split.pop("train")
    labels[train] = hide_labels(spool.ids[train], labels[train], data.labeled_fraction, data.seed)
    near = {name: resembling(spool.hashes[mask], spool.hashes[train]) for name, mask in of_split.items()}
    manifest = Manifest(
        classes=classes,
        counts=counts,
        labeled=class_counts(labels[train], classes),
        near_duplicates={name: int(mask.sum()) for name, mask in near.items()},
        image_size=data.image_size,
        source={"name": source.name, "version": source.version},
        duplicates_dropped=int(dropped["duplicates"].sum()),
        conflicting_duplicates_dropped=int(dropped["conflicting"].sum()),
        official_splits=source.splits,
        overlapping_dropped={
            SPLITS[split]: int(dropped["overlapping"][spool.splits == split].sum()) for split in (TRAIN, VALIDATION)
        },
    )
    return splits, labels, manifest


if __name__ == "__main__":
    run(main)

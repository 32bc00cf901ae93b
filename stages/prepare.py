"""Read the data set, drop copies, split it, and write it as TFRecords (`data/records`)."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from distillation.console import progress, run, warn
from distillation.data.records import RECORDS, Manifest, write_records
from distillation.data.splits import (
    NO_SPLIT,
    SPLITS,
    TRAIN,
    VALIDATION,
    class_counts,
    copies,
    drop_copies,
    hide_labels,
    overlapping,
    random_ranks,
    resembling,
    stratified_split,
    too_many_for_copies,
    with_images,
)
from distillation.files import replacing
from distillation.params import Data, Params
from distillation.sources.class_names import read_class_names
from distillation.sources.open import Source, open_source, open_unlabeled
from distillation.sources.spool import Spool, stored


def main(params: Params) -> str:
    """Write the records of every split and their manifest.

    Each image is read once, and lies on disk from then on. In memory there are a few bytes for each, from which
    everything is decided. Where `RAY_ADDRESS` names a Ray cluster, its nodes decode and encode the images.
    """
    data = params.data
    with replacing(RECORDS) as directory:
        with open_source(data) as source:
            classes = read_class_names(Path(data.class_names), source.classes)
            count, unlabeled = open_unlabeled(Path(data.unlabeled))
            examples = stored(itertools.chain(source.images, unlabeled), classes, data)
            examples = progress(examples, source.count + count, "prepare: reading images")
            spool = Spool(directory / "spool", examples)
        declared, (classes, spool.labels) = classes, with_images(spool.labels, classes)
        if empty := [name for name in declared if name not in classes]:
            warn(f"{len(empty)} of {len(declared)} classes have no image, and are left out: {', '.join(empty)}")
        splits, labels, manifest = _place(spool, source, classes, data)
        placed = (
            (SPLITS[split], replace(example, label=label))
            for example, split, label in zip(spool, map(int, splits), map(int, labels), strict=True)
            if split != NO_SPLIT
        )
        write_records(directory, placed, manifest)
        shutil.rmtree(directory / "spool")
    for split, count in manifest.near_duplicates.items():
        if too_many_for_copies(count, manifest.size(split)):
            warn(
                f"{count:,} of {manifest.size(split):,} {split} images look like a training image: if they are copies, "
                "or shots of one moment, accuracies will be too high (docs/data.md)"
            )
    sizes = ", ".join(f"{manifest.size(name):,} {name}" for name in SPLITS)
    return f"prepare: {sizes} images of {len(classes)} classes -> {RECORDS}"


def _place(spool: Spool, source: Source, classes: list[str], data: Data) -> tuple[np.ndarray, np.ndarray, Manifest]:
    """The split, or `NO_SPLIT`, and the label of each example in the spool: (n,) int8 and (n,) int32."""
    dropped = drop_copies(spool.ids, spool.labels, spool.splits)
    stays = ~np.logical_or.reduce([*dropped.values()])
    dropped["overlapping"] |= overlapping(spool.hashes, spool.splits, stays)
    stays &= ~dropped["overlapping"]
    labels, labeled, ranks = spool.labels.copy(), spool.splits != NO_SPLIT, random_ranks(spool.ids, data.seed)
    splits = stratified_split(
        ranks,
        labels,
        np.where(stays, spool.splits, np.int8(NO_SPLIT)),
        classes,
        data.validation_fraction,
        data.test_fraction,
        data.fold,
        data.max_images,
    )
    of_split = {name: splits == number for number, name in enumerate(SPLITS)}
    counts = {name: class_counts(labels[mask], classes) for name, mask in of_split.items()}
    train = of_split.pop("train")
    labels[train] = hide_labels(ranks[train], labels[train], data.labeled_fraction)
    del ranks  # before much more memory is taken
    unlabeled = stays & ~labeled
    dropped["overlapping"] |= copies(spool.hashes, unlabeled, splits > TRAIN)
    unlabeled &= ~dropped["overlapping"]
    splits[unlabeled] = TRAIN
    taught = spool.hashes[splits == TRAIN]
    near = {name: resembling(spool.hashes[mask], taught) for name, mask in of_split.items()}
    lost = {"unlabeled": NO_SPLIT, "train": TRAIN, "validation": VALIDATION}
    manifest = Manifest(
        classes=classes,
        counts=counts,
        labeled=class_counts(labels[train], classes),
        unlabeled=int(unlabeled.sum()),
        near_duplicates={name: int(mask.sum()) for name, mask in near.items()},
        image_size=data.image_size,
        oblong=data.oblong,
        source={"name": source.name, "version": source.version},
        duplicates_dropped=int(dropped["duplicates"].sum()),
        conflicting_duplicates_dropped=int(dropped["conflicting"].sum()),
        official_splits={  # all images of one may have been copies
            name: own for name, own in source.splits.items() if (stays & (spool.splits == SPLITS.index(name))).any()
        },
        overlapping_dropped={
            name: int(dropped["overlapping"][spool.splits == split].sum()) for name, split in lost.items()
        },
    )
    return splits, labels, manifest


if __name__ == "__main__":
    run(main)

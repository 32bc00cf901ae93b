"""Read the data set, drop duplicates, split it, and write it as TFRecords (`data/records`)."""

import numpy as np

from distillation.console import progress, run
from distillation.data.records import RECORDS, Manifest, write_records
from distillation.data.splits import (
    Example,
    class_counts,
    drop_duplicates,
    hide_labels,
    image_id,
    resembling,
    stratified_split,
)
from distillation.errors import InputError
from distillation.files import replacing
from distillation.parallel import map_in_order
from distillation.params import Params
from distillation.sources.images import perceptual_hash, square_jpeg
from distillation.sources.open import open_source


def main(params: Params) -> str:
    """Write the records of every split and their manifest."""
    data = params.data

    def to_example(picture: tuple[bytes, int, str]) -> Example:
        encoded, label, source_name = picture
        if not 0 <= label < len(source.classes):
            raise InputError(f"{source_name} has label {label}; it should be one of 0..{len(source.classes) - 1}")
        try:
            jpeg = square_jpeg(encoded, data.image_size)
        except InputError as error:
            raise InputError(f"{source_name}: {error}") from None
        return Example(image_id(encoded), label, source_name, jpeg)

    with open_source(data) as source:
        pictures = progress(source.pictures, source.count, "prepare: reading images")
        examples, duplicates, conflicting = drop_duplicates(map_in_order(to_example, pictures))
        splits = stratified_split(
            examples, source.classes, data.validation_fraction, data.test_fraction, data.seed, data.max_images
        )
    hashes = {
        name: np.array([*map_in_order(perceptual_hash, (example.jpeg for example in split))], np.uint64)
        for name, split in splits.items()
    }
    counts = {name: class_counts(split, source.classes) for name, split in splits.items()}
    splits["train"] = hide_labels(splits["train"], data.labeled_fraction, data.seed)
    manifest = Manifest(
        classes=source.classes,
        counts=counts,
        labeled=class_counts(splits["train"], source.classes),
        near_duplicates={name: resembling(hashes[name], hashes["train"]) for name in ("validation", "test")},
        image_size=data.image_size,
        source={"name": source.name, "version": source.version},
        duplicates_dropped=duplicates,
        conflicting_duplicates_dropped=conflicting,
    )
    with replacing(RECORDS) as directory:
        write_records(directory, splits, manifest)
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in splits.items())
    return f"prepare: {sizes} images of {len(source.classes)} classes -> {RECORDS}"


if __name__ == "__main__":
    run(main)

"""Which image goes where: duplicates, the split into training, validation and test, hidden labels."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from distillation.errors import InputError

SPLITS = ("train", "validation", "test")
NEAR_BITS = 4  # of the 64 of a perceptual hash
UNLABELED = -1
ID_LENGTH = 16  # hexadecimal digits, 64 bits: a collision among a million images has odds of 3 in 100 million


@dataclass(frozen=True)
class Example:
    """One picture; `id` is a digest of its source bytes, so it does not depend on where the picture lay.

    A training picture's `label` may be `UNLABELED`.
    """

    id: str
    label: int
    source: str
    jpeg: bytes


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


def class_counts(examples: Sequence[Example], classes: Sequence[str]) -> dict[str, int]:
    """Number of examples by class name, zeros included."""
    found = Counter(example.label for example in examples)
    return {name: found[label] for label, name in enumerate(classes)}


def _ranked(examples: Iterable[Example], seed: int) -> list[Example]:
    return sorted(examples, key=lambda example: hashlib.sha256(f"{seed} {example.id}".encode()).digest())

"""Which image goes where: copies, the split into training, validation and test, hidden labels.

Functions take parallel arrays of what is known of the images, a few bytes for each, however many there are: `ids` (n,)
uint64, `labels` (n,) int32, `splits` (n,) int8, `hashes` (n,) uint64. A split is a number: where one official split
holds a copy of an image of another, the image stays in the one of the higher number. Images that come without labels
are of no split, and so below them all.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distillation.errors import InputError

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
NO_SPLIT = -1
UNLABELED = -1
NEAR_BITS = 4  # of the 64 of a perceptual hash
# Where more images than these resemble held-out ones, they are hardly copies: it is one scene that they all show.
MOST_COPIES, MOST_COPIES_SHARE = 10, 0.1
ID_LENGTH = 16  # hexadecimal digits, 64 bits: a collision among a million images has odds of 3 in 100 million


@dataclass(frozen=True)
class Example:
    """One image; `id` is a digest of its source bytes, so it does not depend on where the image lay.

    A training image's `label` may be `UNLABELED`. `split` is the official one, where its source has such.
    """

    id: str
    label: int
    source: str
    jpeg: bytes
    split: int = TRAIN


def image_id(encoded: bytes) -> str:
    """First 64 bits of the SHA-256 of an image's source bytes, as 16 hexadecimal digits."""
    return hashlib.sha256(encoded).hexdigest()[:ID_LENGTH]


def with_images(labels: np.ndarray, classes: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The classes that some image is of, in their order, and the labels, (n,) int32, as numbers of these.

    A data set of TFDS may declare others: `emnist/letters` has 37 for 26 letters.
    """
    present = np.unique(labels[labels != UNLABELED])
    number = np.full(len(classes) + 1, UNLABELED, np.int32)  # the last one is that of `UNLABELED`, -1
    number[present] = np.arange(len(present))
    return [classes[label] for label in present], number[labels]


def drop_copies(ids: np.ndarray, labels: np.ndarray, splits: np.ndarray) -> dict[str, np.ndarray]:
    """Which images must go, of those that are equal byte by byte; each goes for one reason.

    A copy of an image of another official split costs the lower one. Of equal training images the first stays, and
    none where their labels contradict each other; of unlabeled ones the first. Official validation and test images
    stay as they are otherwise: what others publish counts their copies too.

    Args:
        ids, labels, splits: in the order of ids, then splits, then labels.

    Returns:
        (n,) bool by reason: `overlapping`, `conflicting`, `duplicates`.
    """
    copy = np.zeros(len(ids), bool)  # of the image before
    copy[1:] = ids[1:] == ids[:-1]
    starts = np.flatnonzero(~copy)
    sizes = np.diff(starts, append=len(ids))
    lower = splits < np.repeat(np.maximum.reduceat(splits, starts), sizes)
    copy[1:] &= ~lower[:-1]
    differing = copy.copy()
    differing[1:] &= labels[1:] != labels[:-1]
    training = (splits <= TRAIN) & ~lower
    conflicting = training & np.repeat(np.logical_or.reduceat(differing, starts), sizes)
    return {"overlapping": lower, "conflicting": conflicting, "duplicates": training & ~conflicting & copy}


def overlapping(hashes: np.ndarray, splits: np.ndarray, stays: np.ndarray) -> np.ndarray:
    """Which of the images that stay, (n,) bool, resemble one of a higher official split (see `resembling`): (n,) bool.

    One that does costs no other image its place.
    """
    found = np.zeros(len(hashes), bool)
    for split in (VALIDATION, TRAIN):
        found |= copies(hashes, stays & (splits == split), stays & ~found & (splits > split))
    return found


def copies(hashes: np.ndarray, lower: np.ndarray, higher: np.ndarray) -> np.ndarray:
    """Which of the images `lower` resemble one of `higher` (all (n,) bool): none where too many do to be copies."""
    found, alike = np.zeros(len(hashes), bool), resembling(hashes[lower], hashes[higher])
    if not too_many_for_copies(int(alike.sum()), len(alike)):
        found[lower] = alike
    return found


def too_many_for_copies(count: int, of: int) -> bool:
    """Whether so many images of a split resemble held-out ones that the hash seems unable to tell the images apart."""
    return count > max(MOST_COPIES, MOST_COPIES_SHARE * of)


def random_ranks(ids: np.ndarray, seed: int) -> np.ndarray:
    """A number (n,) uint64 for each image, as if drawn at random from `seed`: the start of the SHA-256 of both."""
    digests = (hashlib.sha256(f"{seed} {number:0{ID_LENGTH}x}".encode()).digest() for number in map(int, ids))
    return np.fromiter((int.from_bytes(digest[:8]) for digest in digests), np.uint64, len(ids))


def stratified_split(
    ranks: np.ndarray,
    labels: np.ndarray,
    splits: np.ndarray,
    classes: Sequence[str],
    validation_fraction: float,
    test_fraction: float,
    fold: int = 0,
    max_images: int | None = None,
) -> np.ndarray:
    """The split of each image, or `NO_SPLIT`: (n,) int8. Images of no split stay so; their order does not matter.

    Official validation and test images stay where they are. What is missing of these two is taken from the training
    images of each class, by `random_ranks`: test first, then validation. Fold f begins f times as many images further
    on, so folds have disjoint tests (or, where the test is official, disjoint validations), until the class is
    used up and they begin anew.

    With `max_images`, that many are taken first, in the proportions of classes and splits (but enough for one in each),
    by the same rank. Raises `InputError` where a class lacks images for one in each split.
    """
    share = 1 if max_images is None else min(1, max_images / max(1, np.count_nonzero(splits != NO_SPLIT)))
    missing = [split for split in (TEST, VALIDATION) if not (splits == split).any()]
    fractions, least = {TEST: test_fraction, VALIDATION: validation_fraction}, 1 + len(missing)
    placed, problems = np.full(len(ranks), NO_SPLIT, np.int8), []
    for label, name in enumerate(classes):
        of_class = np.flatnonzero((labels == label) & (splits != NO_SPLIT))
        of_class = of_class[np.argsort(ranks[of_class], kind="stable")]
        for split in {VALIDATION, TEST} - set(missing):
            official = of_class[splits[of_class] == split]
            placed[official[: max(1, round(len(official) * share))]] = split
            if not len(official):
                copies = " (copies of test images do not count)" if split == VALIDATION else ""
                problems.append(f"class {name} has no image in the official {SPLITS[split]} split{copies}")
        pool = of_class[splits[of_class] == TRAIN]
        pool = pool[: max(least, round(len(pool) * share))]
        if len(pool) < least:
            use = "" if len(missing) == 2 else " to train on"
            problems.append(f"class {name} has {len(pool)} different images{use}; it should have at least {least}")
            continue
        placed[pool] = TRAIN
        left = len(pool)
        for number, split in enumerate(missing):
            others = len(missing) - number - 1
            size = min(max(1, round(len(pool) * fractions[split])), left - others - 1)
            if number == 0:
                pool = np.roll(pool, -fold * size)
            placed[pool[len(pool) - left :][:size]] = split
            left -= size
    if problems:
        more = f"; {len(problems) - 1} more of this kind" if len(problems) > 1 else ""
        advice = "" if len(missing) == 2 else ", or set data.splits to anew"
        raise InputError(f"{problems[0]}{more}{advice}")
    return placed


def hide_labels(ranks: np.ndarray, labels: np.ndarray, labeled_fraction: float) -> np.ndarray:
    """The labels, of which each class keeps that share, one at least; all others become `UNLABELED`.

    By rank, as in the split: what a smaller share keeps, a larger one keeps too.
    """
    if labeled_fraction == 1:
        return labels
    hidden = np.full_like(labels, UNLABELED)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        of_class = of_class[np.argsort(ranks[of_class], kind="stable")]
        hidden[of_class[: max(1, round(len(of_class) * labeled_fraction))]] = label
    return hidden


def resembling(hashes: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Which of `hashes` (n,) uint64 differ from one of `reference` (m,) uint64 in at most `NEAR_BITS` bits: (n,) bool.

    Of `NEAR_BITS` + 2 groups of bits, at least two are then equal: only hashes that share two groups are compared, in
    time that grows little faster than n + m (Manku, Jain and Das Sarma, "Detecting near-duplicates for web crawling",
    2007, section 3).
    """
    found, reference = np.zeros(len(hashes), bool), np.unique(reference)
    for one, other in itertools.combinations(_BIT_GROUPS, 2):
        mask = one | other
        order = np.argsort(reference & mask)
        ordered = reference[order]
        del order  # before much more memory is taken
        keys = ordered & mask
        for start in range(0, len(hashes), _AT_A_TIME):  # which bounds the memory
            block = slice(start, start + _AT_A_TIME)
            values, hit = hashes[block], found[block]
            place, end = (np.searchsorted(keys, values & mask, side) for side in ("left", "right"))
            waiting = np.flatnonzero(~hit & (place < end))
            while len(waiting):
                differing = np.bitwise_count(values[waiting] ^ ordered[place[waiting]])
                hit[waiting] = differing <= NEAR_BITS
                place[waiting] += 1
                waiting = waiting[~hit[waiting] & (place[waiting] < end[waiting])]
    return found


_AT_A_TIME = 2**14
_EDGES = np.linspace(0, 64, NEAR_BITS + 3).round().astype(int)
_BIT_GROUPS = [np.uint64((1 << int(end)) - (1 << int(start))) for start, end in itertools.pairwise(_EDGES)]


def class_counts(labels: np.ndarray, classes: Sequence[str]) -> dict[str, int]:
    """Number of labels by class name, zeros included; `UNLABELED` ones don't count."""
    counts = np.bincount(labels[labels != UNLABELED], minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))

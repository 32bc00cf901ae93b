"""Splits: what becomes of copies, what the split promises, and whose label is hidden."""

from collections import Counter

import numpy as np
import pytest
from helpers import bare_examples

from distillation.data.splits import (
    UNLABELED,
    Example,
    class_counts,
    drop_duplicates,
    hide_labels,
    image_id,
    resembling,
    stratified_split,
)
from distillation.errors import InputError

CLASSES = ["ant", "bee", "cow"]


def split(examples: list[Example], seed: int = 0, **options: object) -> dict[str, list[Example]]:
    return stratified_split(examples, CLASSES, 0.1, 0.2, seed, **options)


def placed(splits: dict[str, list[Example]]) -> dict[str, str]:
    """The split of each id."""
    return {example.id: name for name, examples in splits.items() for example in examples}


def test_id_is_the_start_of_the_sha256_of_the_bytes():
    # FIPS 180-2, appendix B.1: SHA-256 of "abc" is ba7816bf 8f01cfea 414140de ...
    assert image_id(b"abc") == "ba7816bf8f01cfea"
    assert image_id(b"abd") != image_id(b"abc")


def test_of_equal_pictures_with_equal_labels_one_is_kept_whatever_their_order():
    copies = [Example("1" * 16, 0, source, b"") for source in ("c", "a", "b")]
    other = Example("0" * 16, 1, "d", b"")
    assert drop_duplicates([*copies, other]) == ([other, copies[1]], 2, 0)
    assert drop_duplicates([other, *reversed(copies)]) == ([other, copies[1]], 2, 0)


def test_of_equal_pictures_with_contradicting_labels_none_is_kept():
    contradicting = [Example("1" * 16, label, f"{number}", b"") for number, label in enumerate((0, 1, 0))]
    other = Example("2" * 16, 1, "d", b"")
    assert drop_duplicates([*contradicting, other]) == ([other], 0, 3)


def test_without_duplicates_everything_is_kept_in_id_order():
    examples = bare_examples(20, 3)
    kept, *dropped = drop_duplicates(examples)
    assert kept == sorted(examples, key=lambda example: example.id)
    assert dropped == [0, 0]


def test_split_does_not_depend_on_the_order_of_its_input():
    examples = bare_examples(100, 3)
    shuffled = [examples[number] for number in np.random.default_rng(0).permutation(100)]
    assert split(shuffled) == split(examples)
    assert split(shuffled, max_images=50) == split(examples, max_images=50)


@pytest.mark.parametrize("count", [9, 10, 57, 400])
def test_split_is_complete_disjoint_sorted_and_stratified(count: int):
    examples = bare_examples(count, 3)
    splits = split(examples)
    members = [example for part in splits.values() for example in part]
    assert sorted(members, key=lambda example: example.id) == sorted(examples, key=lambda example: example.id)
    assert list(splits) == ["train", "validation", "test"]
    for part in splits.values():
        assert [example.id for example in part] == sorted(example.id for example in part)
    sizes = Counter(example.label for example in examples)
    for name, fraction in (("validation", 0.1), ("test", 0.2)):
        found = Counter(example.label for example in splits[name])
        for label in range(3):
            assert found[label] >= 1
            assert abs(found[label] - fraction * sizes[label]) < 1
    assert {example.label for example in splits["train"]} == {0, 1, 2}


def test_one_more_picture_moves_at_most_two_others():
    examples = bare_examples(101, 3)
    before = placed(split(examples[:-1]))
    for stranger in bare_examples(20, 3, seed=1):
        after = placed(split([*examples[:-1], stranger]))
        assert sum(after[name] != part for name, part in before.items()) <= 2


def test_another_seed_gives_another_split_of_the_same_sizes():
    examples = bare_examples(300, 3)
    first, second = split(examples, seed=0), split(examples, seed=1)
    assert {name: len(part) for name, part in first.items()} == {name: len(part) for name, part in second.items()}
    # Two independent splits put a picture into the same part with odds 0.7^2 + 0.1^2 + 0.2^2 = 0.54.
    one, other = placed(first), placed(second)
    assert 0.4 < np.mean([one[name] == other[name] for name in one]) < 0.68


def test_max_images_takes_a_stratified_part_of_every_class():
    examples = [*bare_examples(300, 3), *bare_examples(100, 1, seed=1)]  # 200, 100 and 100
    members = [example for part in split(examples, max_images=80).values() for example in part]
    assert Counter(example.label for example in members) == {0: 40, 1: 20, 2: 20}
    assert {example.id for example in members} <= {example.id for example in examples}
    assert split(examples, max_images=400) == split(examples)
    assert split(examples, max_images=4000) == split(examples)


def test_a_smaller_subset_is_part_of_a_larger_one():
    examples = bare_examples(300, 3)
    smaller, larger = (placed(split(examples, max_images=count)).keys() for count in (60, 120))
    assert smaller < larger


def test_class_with_too_few_pictures_is_named():
    examples = [example for example in bare_examples(30, 3) if example.label != 1]
    two = [Example(image_id(content), 1, "", content) for content in (b"a", b"b")]
    for few in ([], two):
        with pytest.raises(InputError, match=f"class bee has {len(few)} .*at least 3"):
            split([*examples, *few])


@pytest.mark.parametrize("fractions", [(0.4, 0.5), (0.5, 0.4), (0.45, 0.45)])
def test_what_a_class_is_said_to_need_is_enough(fractions: tuple[float, float]):
    """Whoever mends the data as the message says must not meet the message again."""
    splits = stratified_split(bare_examples(9, 3), CLASSES, *fractions, seed=0)
    assert all({example.label for example in part} == {0, 1, 2} for part in splits.values())


def test_class_counts_include_zeros():
    assert class_counts(bare_examples(4, 2), CLASSES) == {"ant": 2, "bee": 2, "cow": 0}


@pytest.mark.parametrize(("share", "kept"), [(1, 100), (0.25, 25), (0.001, 1)])
def test_each_class_keeps_its_share_of_labels(share: float, kept: int):
    examples = bare_examples(300, 3)
    hidden = hide_labels(examples, share, seed=0)
    assert [example.id for example in hidden] == [example.id for example in examples]
    assert Counter(example.label for example in hidden if example.label != UNLABELED) == dict.fromkeys(range(3), kept)
    assert all(example.label in (true.label, UNLABELED) for example, true in zip(hidden, examples, strict=True))


def test_labels_kept_of_a_smaller_share_are_kept_of_a_larger_one():
    examples = bare_examples(300, 3)
    few, many = (
        {example.id for example in hide_labels(examples, share, seed=0) if example.label != UNLABELED}
        for share in (0.1, 0.3)
    )
    assert few < many
    assert few != {example.id for example in hide_labels(examples, 0.1, seed=1) if example.label != UNLABELED}


def test_resemblance_counts_hashes_within_a_few_bits():
    reference = np.array([0, 2**64 - 1], np.uint64)
    hashes = np.array([0, 0b1111, 0b11111, 2**64 - 1 - 2**63, 0xFFFFFFFF], np.uint64)
    assert resembling(hashes, reference) == 3
    assert resembling(reference[:0], reference) == 0

"""Splits: copies, properties of the split, official splits, folds, and hidden labels."""

import re
from collections import Counter

import numpy as np
import pytest
from helpers import bare_examples, columns, labels_hidden, split_examples
from hypothesis import given
from hypothesis import strategies as st

from distillation.data.splits import (
    NEAR_BITS,
    NO_SPLIT,
    SPLITS,
    TEST,
    TRAIN,
    UNLABELED,
    VALIDATION,
    Example,
    class_counts,
    drop_copies,
    image_id,
    overlapping,
    resembling,
    with_images,
)
from distillation.errors import InputError

CLASSES = ["ant", "bee", "cow"]


def split(examples: list[Example], seed: int = 0, **options: object) -> dict[str, list[Example]]:
    return split_examples(examples, CLASSES, seed=seed, **options)


def placed(splits: dict[str, list[Example]]) -> dict[str, str]:
    """The split of each id."""
    return {example.id: name for name, examples in splits.items() for example in examples}


def in_split(examples: list[Example], number: int) -> list[Example]:
    return [Example(one.id, one.label, one.source, one.jpeg, number) for one in examples]


def test_id_is_the_start_of_the_sha256_of_the_bytes():
    # FIPS 180-2, appendix B.1: SHA-256 of "abc" is ba7816bf 8f01cfea 414140de ...
    assert image_id(b"abc") == "ba7816bf8f01cfea"
    assert image_id(b"abd") != image_id(b"abc")


# Copies


def reasons(*rows: tuple[int, int, int]) -> list[str]:
    """The reason for dropping each image, given its id, split and label; "" where it stays."""
    ids, splits, labels = np.array(rows).T
    dropped = drop_copies(ids.astype(np.uint64), labels, splits.astype(np.int8))
    assert max(sum(mask) for mask in zip(*dropped.values(), strict=True)) <= 1
    return ["".join(name for name, mask in dropped.items() if mask[place]) for place in range(len(rows))]


def test_of_equal_training_images_with_equal_labels_the_first_is_kept():
    assert reasons((1, TRAIN, 0), (1, TRAIN, 0), (1, TRAIN, 0), (2, TRAIN, 0)) == ["", "duplicates", "duplicates", ""]


def test_of_equal_training_images_with_contradicting_labels_none_is_kept():
    rows = (1, TRAIN, 0), (1, TRAIN, 0), (1, TRAIN, 1), (2, TRAIN, 1)
    assert reasons(*rows) == ["conflicting", "conflicting", "conflicting", ""]


def test_copies_across_official_splits_cost_the_lower_one_whatever_their_labels():
    rows = [
        (1, TRAIN, 0), (1, TRAIN, 1), (1, TEST, 0),
        (2, TRAIN, 0), (2, VALIDATION, 0),
        (3, VALIDATION, 0), (3, TEST, 1),
        (4, TRAIN, 0),
    ]  # fmt: skip
    lost = "overlapping"
    assert reasons(*rows) == [lost, lost, "", lost, "", lost, "", ""]


def test_official_validation_and_test_stay_as_they_are():
    assert reasons((1, TEST, 0), (1, TEST, 0), (1, TEST, 1), (2, VALIDATION, 0), (2, VALIDATION, 0)) == [""] * 5


def test_unlabeled_copies_of_labeled_images_go_and_of_unlabeled_ones_one_stays():
    rows = [
        (1, NO_SPLIT, UNLABELED), (1, NO_SPLIT, UNLABELED), (1, TRAIN, 0), (1, TRAIN, 0),
        (2, NO_SPLIT, UNLABELED), (2, TRAIN, 0), (2, TRAIN, 1),
        (3, NO_SPLIT, UNLABELED), (3, NO_SPLIT, UNLABELED),
        (4, NO_SPLIT, UNLABELED), (4, TRAIN, 1),
    ]  # fmt: skip
    lost, twice, both = "overlapping", "duplicates", "conflicting"
    assert reasons(*rows) == [lost, lost, "", twice, lost, both, both, "", twice, lost, ""]


def test_no_images_have_no_copies():
    nothing = np.zeros(0, np.int8)
    assert [len(mask) for mask in drop_copies(nothing, nothing, nothing).values()] == [0, 0, 0]


def test_images_that_resemble_one_of_a_higher_split_are_found():
    near, far = 0b11, 2**32 - 1
    hashes = np.array([0, 0, near, 0, far, far, far], np.uint64)
    splits = np.array([TEST, TRAIN, VALIDATION, TRAIN, TRAIN, VALIDATION, TRAIN], np.int8)
    stays = np.array([True, True, True, False, True, True, False])
    assert overlapping(hashes, splits, stays).tolist() == [False, True, True, False, True, False, False]


def test_what_is_dropped_costs_no_other_image_its_place():
    # Validation resembles test, and training resembles that validation image, but not the test.
    hashes = np.array([0, 0b1111, 0b11111111], np.uint64)
    found = overlapping(hashes, np.array([TEST, VALIDATION, TRAIN], np.int8), np.ones(3, bool))
    assert found.tolist() == [False, True, False]


# The split


def test_split_does_not_depend_on_the_order_of_its_input():
    examples = bare_examples(100, 3)
    shuffled = [examples[number] for number in np.random.default_rng(0).permutation(100)]
    assert split(shuffled) == split(examples)
    assert split(shuffled, max_images=50) == split(examples, max_images=50)


@pytest.mark.parametrize("count", [9, 10, 57, 400])
@pytest.mark.parametrize("fold", [0, 1, 3])
def test_split_is_complete_disjoint_and_stratified(count: int, fold: int):
    examples = bare_examples(count, 3)
    splits = split(examples, fold=fold)
    members = [example for part in splits.values() for example in part]
    assert sorted(members, key=lambda example: example.id) == sorted(examples, key=lambda example: example.id)
    sizes = Counter(example.label for example in examples)
    for name, fraction in (("validation", 0.1), ("test", 0.2)):
        found = Counter(example.label for example in splits[name])
        for label in range(3):
            assert found[label] >= 1
            assert abs(found[label] - fraction * sizes[label]) < 1
    assert {example.label for example in splits["train"]} == {0, 1, 2}


def test_split_stays_what_it_was_in_earlier_versions():
    """Published splits must not change: the test of 30 images as commit 8d41006 gave it."""
    assert [int(example.source.split()[1]) for example in split(bare_examples(30, 3))["test"]] == [6, 26, 16, 22, 3, 23]


def test_one_more_image_moves_at_most_two_others():
    examples = bare_examples(101, 3)
    before = placed(split(examples[:-1]))
    for stranger in bare_examples(20, 3, seed=1):
        after = placed(split([*examples[:-1], stranger]))
        assert sum(after[name] != part for name, part in before.items()) <= 2


def test_another_seed_gives_another_split_of_the_same_sizes():
    examples = bare_examples(300, 3)
    first, second = split(examples, seed=0), split(examples, seed=1)
    assert {name: len(part) for name, part in first.items()} == {name: len(part) for name, part in second.items()}
    # Two independent splits put an image into the same part with odds 0.7^2 + 0.1^2 + 0.2^2 = 0.54.
    one, other = placed(first), placed(second)
    assert 0.4 < np.mean([one[name] == other[name] for name in one]) < 0.68


def test_folds_have_disjoint_tests_that_together_hold_everything():
    examples = bare_examples(300, 3)
    folds = [split(examples, fold=fold) for fold in range(6)]
    tests = [{example.id for example in fold["test"]} for fold in folds]
    assert [len(test) for test in tests] == [60] * 6
    assert len(set.union(*tests[:5])) == 300
    assert tests[5] == tests[0]
    assert folds[0] == split(examples)


def test_folds_of_an_official_test_have_disjoint_validations():
    examples = bare_examples(300, 3) + in_split(bare_examples(30, 3, seed=1), TEST)
    folds = [split(examples, fold=fold) for fold in range(10)]
    assert all(fold["test"] == folds[0]["test"] for fold in folds)
    validations = [{example.id for example in fold["validation"]} for fold in folds]
    assert sum(map(len, validations)) == len(set.union(*validations)) == 300


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


def test_class_with_too_few_images_is_named():
    examples = [example for example in bare_examples(30, 3) if example.label != 1]
    two = [Example(image_id(content), 1, "", content) for content in (b"a", b"b")]
    for few in ([], two):
        with pytest.raises(InputError, match=f"class bee has {len(few)} .*at least 3"):
            split([*examples, *few])


@pytest.mark.parametrize("fractions", [(0.4, 0.5), (0.5, 0.4), (0.45, 0.45)])
@pytest.mark.parametrize("fold", [0, 1, 7])
def test_what_a_class_is_said_to_need_is_enough(fractions: tuple[float, float], fold: int):
    """Data that was corrected as the message says must not give the message again."""
    splits = split_examples(bare_examples(9, 3), CLASSES, *fractions, fold=fold)
    assert all({example.label for example in part} == {0, 1, 2} for part in splits.values())


def test_classes_without_an_image_are_left_out():
    labels = np.array([3, UNLABELED, 1, 3], np.int32)
    classes, numbers = with_images(labels, ["ant", "bee", "cow", "dog", "elk"])
    assert classes == ["bee", "dog"]
    assert numbers.tolist() == [1, UNLABELED, 0, 1]
    assert numbers.dtype == np.int32


# Official splits


@pytest.mark.parametrize("held_out", [[TEST], [VALIDATION], [VALIDATION, TEST]], ids=["test", "validation", "both"])
def test_official_splits_are_taken_as_they_are_and_the_others_come_from_training(held_out: list[int]):
    training = bare_examples(300, 3)
    official = {number: in_split(bare_examples(9 * number, 3, seed=number), number) for number in held_out}
    splits = split(training + [example for examples in official.values() for example in examples])
    for number, name in enumerate(SPLITS[1:], start=1):
        ids = {example.id for example in splits[name]}
        if number in official:
            assert ids == {example.id for example in official[number]}
        else:
            assert ids < {example.id for example in training}
            assert len(ids) == {VALIDATION: 30, TEST: 60}[number]
    assert sum(map(len, splits.values())) == len(training) + sum(map(len, official.values()))


def test_max_images_takes_a_part_of_every_official_split():
    examples = bare_examples(300, 3) + in_split(bare_examples(90, 3, seed=1), TEST)
    splits = split(examples, max_images=130)
    assert {name: len(part) for name, part in splits.items()} == {"train": 90, "validation": 9, "test": 30}
    assert [Counter(example.label for example in splits[name]) for name in splits][2] == {0: 10, 1: 10, 2: 10}


@pytest.mark.parametrize("number", [VALIDATION, TEST])
def test_class_that_an_official_split_lacks_is_named(number: int):
    lacking = [example for example in bare_examples(30, 3, seed=1) if example.label != 2]
    copies = " (copies of test images do not count)" if number == VALIDATION else ""
    words = f"class cow has no image in the official {SPLITS[number]} split{copies}, or set data.splits to anew"
    with pytest.raises(InputError, match=re.escape(words)):
        split(bare_examples(300, 3) + in_split(lacking, number))


def test_of_200_classes_one_without_test_images_is_named_and_of_many_the_first():
    names = [f"class {number}" for number in range(200)]
    training, test = bare_examples(600, 200), in_split(bare_examples(200, 200, seed=1), TEST)
    split_examples(training + test, names)
    for lacking, more in (1, ""), (7, "; 6 more of this kind"):
        with pytest.raises(InputError) as caught:
            split_examples(training + test[:-lacking], names)
        words = f"class class {200 - lacking} has no image in the official test split{more}, or set data.splits to anew"
        assert str(caught.value) == words


def test_class_that_lost_its_training_images_is_named():
    lacking = [example for example in bare_examples(30, 3) if example.label != 0][:-9]
    official = in_split(bare_examples(30, 3, seed=1), TEST)
    with pytest.raises(InputError, match="class ant has 0 different images to train on; it should have at least 2"):
        split(lacking + official)


# Hidden labels, resemblance, counts


@pytest.mark.parametrize(("share", "kept"), [(1, 100), (0.25, 25), (0.001, 1)])
def test_each_class_keeps_its_share_of_labels(share: float, kept: int):
    examples = bare_examples(300, 3)
    hidden = labels_hidden(examples, share)
    assert Counter(example.label for example in hidden if example.label != UNLABELED) == dict.fromkeys(range(3), kept)
    assert all(example.label in (true.label, UNLABELED) for example, true in zip(hidden, examples, strict=True))


def test_labels_kept_of_a_smaller_share_are_kept_of_a_larger_one():
    examples = bare_examples(300, 3)
    few, many = (
        {example.id for example in labels_hidden(examples, share) if example.label != UNLABELED} for share in (0.1, 0.3)
    )
    assert few < many
    assert few != {example.id for example in labels_hidden(examples, 0.1, seed=1) if example.label != UNLABELED}


def test_hashes_within_a_few_bits_resemble_each_other():
    reference = np.array([0, 2**64 - 1], np.uint64)
    hashes = np.array([0, 0b1111, 0b11111, 2**64 - 1 - 2**63, 0xFFFFFFFF], np.uint64)
    assert resembling(hashes, reference).tolist() == [True, True, False, True, False]
    assert resembling(reference[:0], reference).tolist() == []
    assert resembling(reference, reference[:0]).tolist() == [False, False]


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60), st.sampled_from([2, 20, 2**16]))
def test_resemblance_is_what_comparing_all_pairs_finds(seed: int, count: int, others: int, at_a_time: int):
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, 2**64, others, np.uint64) & rng.choice(np.array([2**64 - 1, 0xFF], np.uint64), others)
    flips = [sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, 9), replace=False)) for _ in range(count)]
    hashes = rng.choice(reference, count) ^ np.array(flips, np.uint64)
    expected = (np.bitwise_count(hashes[:, None] ^ reference) <= NEAR_BITS).any(axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distillation.data.splits._AT_A_TIME", at_a_time)
        assert resembling(hashes, reference).tolist() == expected.tolist()


def test_class_counts_include_zeros_and_leave_out_what_is_unlabeled():
    assert class_counts(columns(bare_examples(4, 2))["labels"], CLASSES) == {"ant": 2, "bee": 2, "cow": 0}
    assert class_counts(np.array([UNLABELED, 2]), CLASSES) == {"ant": 0, "bee": 0, "cow": 1}
    assert class_counts(np.zeros(0, np.int32), CLASSES) == dict.fromkeys(CLASSES, 0)

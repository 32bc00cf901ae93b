"""Many classes of few images: groups are those that there are, and no image is in two of them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import needs_imagenet_1, needs_photographs

from studies import many_classes


def test_groups_are_found_and_the_ambiguous_images_left_out():
    rng = np.random.default_rng(0)
    middles = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    clear = (middles[:, None] + rng.uniform(-1, 1, (3, 20, 2))).reshape(60, 2)
    between = np.array([4.0, 0.0]) + rng.uniform(-1, 1, (5, 2))
    groups = many_classes.typical_groups(np.concatenate([clear, between]), count=3, most=20)
    assert sorted(map(sorted, groups)) == [[*range(0, 20)], [*range(20, 40)], [*range(40, 60)]]


@pytest.mark.slow
@needs_photographs
@needs_imagenet_1
def test_folder_has_splits_of_groups_without_common_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(many_classes, "GROUPS", {"cats_vs_dogs": 3})
    monkeypatch.setattr(many_classes, "MOST", 400)
    monkeypatch.setattr(many_classes, "SPLITS", {"train": 7, "val": 5, "test": 2})
    many_classes.write_groups(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    counts = Counter(file.relative_to(tmp_path).parts[:2] for file in files)
    classes = [f"{label:02}_{group:02}" for label in range(2) for group in range(3)]
    sizes = {"train": 7, "val": 5, "test": 2}
    assert counts == {(split, name): size for split, size in sizes.items() for name in classes}
    assert len({file.read_bytes() for file in files}) == len(files) == 6 * 14

"""A teacher from a file is not trained: it is read, checked on some images, scored, and published."""

import json
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest, permutation_test
from sklearn.metrics import confusion_matrix

from distillation.console import note
from distillation.data.records import Records
from distillation.errors import InputError
from distillation.inference.forward import BATCH, forward_pass, plain_images, predict
from distillation.inference.published import RANGES, Reading, load_trained, logits, scaled
from distillation.networks.network import MAPS
from distillation.params import Teacher
from distillation.training.checkpoint import History
from distillation.training.head import scores
from distillation.training.own_file import OwnFile, open_own
from distillation.training.teacher import MODEL, STAGE

SAMPLE = 8 * BATCH  # images that the file is checked on: validation ones, and training ones where these are fewer
SCORED = 2000  # labeled training images that it is scored on
CHANCE = 0.05  # a teacher with a larger p-value is no better than chance
SURE = 0.001  # another reading is better where its p-value is below this


def take_own(teacher: Teacher, train: Records, validation: Records) -> History:
    """Write the classifier in `teacher.file` to `models/teacher` and return its history: one row, as `train_head`'s.

    Args:
        teacher: `file`, `input_range`, `classes`, and `image_size` where the file does not fix it.
        train, validation: labeled images.

    Raises:
        InputError: where the file cannot be used, does not fit the classes, or answers NaN; and where, on `SAMPLE`
            images, it is no better than chance, or is clearly better under another reading.
    """
    file = open_own(teacher.file, teacher.image_size)
    reading = _checked(file, teacher, train, validation)
    directory = Path("models") / MODEL
    file.publish(reading, directory)
    published = load_trained(directory)
    if not set(MAPS) <= set(published.output):
        note(f"{STAGE}: {teacher.file} has no feature maps at 1/16 and 1/32 of the image: logits alone")
    forward, row = forward_pass(published), {"images": 0}
    for split, records, batches in (("train", train, -(-SCORED // BATCH)), ("validation", validation, None)):
        images = plain_images(records, file.size)
        images = images if batches is None else images.take(batches)
        answers = predict(forward, images, f"{STAGE}: {split}")["logits"].astype(np.float64)
        if not np.isfinite(answers).all():
            raise InputError(f"teacher.file = {teacher.file!r} answers some images of {split} with NaN or infinity")
        row |= scores(split, answers, records.labels[: len(answers)])
    return [row]


def _checked(file: OwnFile, teacher: Teacher, train: Records, validation: Records) -> Reading:
    """How to read `file`, after a check on a sample of the images."""
    name, classes = f"teacher.file = {teacher.file!r}", validation.manifest.classes
    if file.outputs != len(classes) and not (file.outputs == 1 and len(classes) == 2):
        raise InputError(f"{name} answers {file.outputs} numbers, should answer one for each of {len(classes)} classes")
    images, labels = _sample(file.size, validation, train)
    chosen = file.input_range or teacher.input_range
    answers = {chosen: _answers(file, images, chosen)}
    if not np.isfinite(answers[chosen]).all():
        raise InputError(f"{name} answers some images with NaN or infinity")
    reading = Reading(
        input_range=chosen,
        probabilities=bool(answers[chosen].min() >= 0 and answers[chosen].max() <= 1),
        floor=file.floor,
        order=_order(file, teacher, classes),
    )
    if file.input_range is None:
        answers |= {other: _answers(file, images, other) for other in RANGES if other != chosen}
    guesses = {key: logits(values, reading).argmax(axis=1) for key, values in answers.items()}
    right = {
        (key, permuted): _right_if_permuted(guesses[key], labels, len(classes)) if permuted else guesses[key] == labels
        for key, permuted in product(answers, (False, True))
    }
    now = right[chosen, False]
    better = [key for key, found in right.items() if _clearly_better(found, now)]
    if better:
        # Of equally good readings, the one that changes fewest settings.
        best = max(better, key=lambda key: (right[key].mean(), -(key[0] != chosen) - key[1]))
        settings = [f"teacher.input_range to {best[0]!r}"] if best[0] != chosen else []
        if best[1]:
            images = plain_images(validation, file.size).as_numpy_iterator()
            guesses = logits(_answers(file, images, best[0]), reading).argmax(axis=1)
            found = certain_permutation(guesses, validation.labels, len(classes))
            if found is None:
                settings.append("teacher.classes to the classes in the order of the file's outputs")
            else:
                in_file = [classes[found[reading.order.index(output)]] for output in range(len(classes))]
                settings.append(f"teacher.classes to {_as_yaml(in_file)}")
        raise InputError(
            f"{name} is right on {now.sum()} of {len(now)} images, but on {right[best].sum()} if read otherwise: "
            f"set {' and '.join(settings)}"
        )
    if no_better_than_chance(guesses[chosen], labels):
        raise InputError(
            f"{name} is right on {now.sum()} of {len(now)} images, which is chance: it should be trained on "
            f"the classes {', '.join(classes)}; teacher.input_range should be what it was trained with, and "
            "teacher.classes, where they are not sorted, the classes in the order of its outputs"
        )
    note(
        f"{STAGE}: {teacher.file} takes {file.size} px, {chosen}, and answers "
        f"{'probabilities' if reading.probabilities else 'logits'}"
    )
    return reading


def _sample(size: int, *splits: Records) -> tuple[list[np.ndarray], np.ndarray]:
    """At least `SAMPLE` images if there are as many, of the first split before the others, in batches; their labels."""
    images, labels, left = [], [], SAMPLE
    for records in splits:
        taken = [*plain_images(records, size).take(-(-left // BATCH)).as_numpy_iterator()]
        images += taken
        labels.append(records.labels[: sum(map(len, taken))])
        left = max(0, left - len(labels[-1]))
    return images, np.concatenate(labels)


def no_better_than_chance(guesses: np.ndarray, labels: np.ndarray) -> bool:
    """Whether guesses, (n,) integers like the labels, need have nothing to do with these (permutation test).

    As many would then be right if the same guesses were dealt out anew. So a teacher that finds two of three defects
    among 256 images is not one of chance, though most images are right whatever it says. Guesses that are all right
    are never called chance: of very few images no test could tell.
    """

    def right(guesses: np.ndarray, axis: int) -> np.ndarray:
        return (guesses == labels).sum(axis=axis)

    p_value = permutation_test(
        (guesses,), right, permutation_type="pairings", vectorized=True, alternative="greater", rng=0
    ).pvalue
    return not (guesses == labels).all() and bool(p_value > CHANCE)


def certain_permutation(guesses: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray | None:
    """The label for each guessed class, or None where some class was seen too rarely, or was confused, to be sure.

    Sure is what most images of both, the guessed class and the label, agree on.
    """
    counts = confusion_matrix(guesses, labels, labels=range(classes))  # a row for each guessed class
    found = _permutation(guesses, labels, classes)
    agreed = counts[np.arange(classes), found]
    return found if (2 * agreed > counts.sum(axis=1)).all() and (2 * agreed > counts.sum(axis=0)[found]).all() else None


def _as_yaml(names: list[str]) -> str:
    """A list that can be put into `params.yaml`: JSON, where names such as `1` and `1e5` are quoted, is YAML, too."""
    return json.dumps(names, ensure_ascii=False)


def _answers(file: OwnFile, images: Iterable[np.ndarray], input_range: str) -> np.ndarray:
    return np.concatenate([file.forward(scaled(batch, input_range))["answers"] for batch in images])


def _order(file: OwnFile, teacher: Teacher, classes: list[str]) -> list[int]:
    """The number of the file's output for each class of the data, by the outputs' names where these are known."""
    if teacher.classes is not None:
        if sorted(teacher.classes) != sorted(classes):
            raise InputError(
                f"teacher.classes = {_as_yaml(teacher.classes)}, should be the classes of the data in the order of "
                f"the file's outputs: {', '.join(classes)}"
            )
        return [teacher.classes.index(name) for name in classes]
    if file.classes is not None and sorted(file.classes) == sorted(classes):
        return [file.classes.index(name) for name in classes]
    return list(range(len(classes)))


def _permutation(guesses: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """The label for each guessed class in the best one-to-one assignment of guesses to labels."""
    counts = confusion_matrix(guesses, labels, labels=range(classes))
    return linear_sum_assignment(counts, maximize=True)[1]


def _right_if_permuted(guesses: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Which guesses are right after a permutation of classes; each half of the images uses that of the other half."""
    right, odd = np.zeros(len(labels), bool), np.arange(len(labels)) % 2 == 1
    for half in (odd, ~odd):
        right[half] = _permutation(guesses[~half], labels[~half], classes)[guesses[half]] == labels[half]
    return right


def _clearly_better(found: np.ndarray, now: np.ndarray) -> bool:
    """Whether `found` has at most half the errors of `now`, and not by chance (exact McNemar test)."""
    gained, lost = int((found & ~now).sum()), int((now & ~found).sum())
    if 2 * (~found).sum() > (~now).sum() or gained == 0:
        return False
    return binomtest(gained, gained + lost, alternative="greater").pvalue < SURE

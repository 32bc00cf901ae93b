"""Draw the figures and write the report: `plots/figures/*.png`, `plots/report*.html` and `plots/table.md`."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
from matplotlib.figure import Figure
from scipy.special import softmax

from distillation.console import run
from distillation.data.records import Records
from distillation.data.views import UNMIXED, are_mixed, number_of_views
from distillation.errors import InputError, reason
from distillation.files import read_json, replacing, write_text
from distillation.inference.forward import plain_images, view_images
from distillation.inference.published import load_trained
from distillation.params import Params
from distillation.report import charts, galleries, page, style, verdict
from distillation.report.statistics import MODELS, PREDICTIONS

FIGURES, REPORT, TABLE = Path("plots/figures"), Path("plots/report.html"), Path("plots/table.md")
PUBLIC = Path("plots/report_without_images.html")  # the licence of a data set may not allow its images to be published
TERMINAL = 80  # columns
FIRST_VIEWS = 5  # of an image, that are shown
GALLERIES = {"montage", "views", "disagreements", "soft_labels"}  # figures with images of the data set


def main(params: Params) -> str:
    """Write figures, report and table; return the table and the verdict, for the terminal."""
    metrics, export = read_json("metrics/evaluate.json"), read_json("metrics/export.json")
    train, test = Records("train", labeled_only=True), Records("test")
    logits = _logits(test)
    drawn = _charts(metrics, export) | _galleries(params, train, test, logits)
    with replacing(FIGURES) as directory:
        directory.mkdir()
        for name, figure in drawn.items():
            style.save(figure, directory / f"{name}.png")
    data, table = _describe(train, test, params.budget.answered), page.comparison(metrics)[page.IN_BRIEF]
    names = test.manifest.classes
    predicted = logits["student_distilled"].argmax(axis=1)
    classes = page.by_class(test.labels, predicted, names) if len(names) > 2 else {}
    write_text(TABLE, page.markdown(table))
    for path, left_out in ((REPORT, set()), (PUBLIC, GALLERIES)):
        shown = {name: figure for name, figure in drawn.items() if name not in left_out}
        write_text(path, page.html(params, metrics, export, data, classes, shown, FIGURES))
    brief = table.drop(columns="ECE").to_string()
    differences = "\n".join((verdict.gain(metrics), verdict.advantage(metrics))).replace(" (", "\n  (")
    data, found = (textwrap.fill(text, TERMINAL) for text in (data, verdict.verdict(metrics)))
    return f"\n{data}\n\n{brief}\n\n{differences}\n\n{found}\n\nreport: {REPORT}"


def _charts(metrics: dict, export: dict) -> dict[str, Figure]:
    history, bins = (
        {name: read_json(f"plots/{plot}/{name}.json") for name in MODELS} for plot in ("history", "reliability")
    )
    return {
        "summary": charts.summary(metrics),
        "learning_curves": charts.learning_curves(history),
        "objective": charts.objective(history["student_distilled"]),
        "cost": charts.cost(metrics, export),
        "reliability": charts.reliability(bins, metrics),
    }


def _galleries(params: Params, train: Records, test: Records, logits: dict[str, np.ndarray]) -> dict[str, Figure]:
    classes, labels = np.array(test.manifest.classes), test.labels
    probabilities = {name: softmax(values.astype(np.float64), axis=1) for name, values in logits.items()}
    labelled = pd.DataFrame({name: values[np.arange(len(test)), labels] for name, values in probabilities.items()})
    differently, against = galleries.contested(labelled)
    labelled["label"] = classes[labels]
    contested = {
        "The models disagree most": differently,
        "Of the others, the teacher believes the label least": against,
    }
    sample = galleries.balanced(train.labels, 50)
    kinds = galleries.by_difficulty(labels, logits["teacher"])
    chosen = list(kinds)
    sides = load_trained("models/teacher").input_shape[1], params.student.image_size  # one's own file has its own side
    taught = Records("train", at_most=params.budget.answered)
    teacher_views, student_views = (_views(taught, params, side) for side in sides)
    return {
        "montage": galleries.montage(_images(train, sample), classes[train.labels[sample]]),
        "views": galleries.views(teacher_views, student_views),
        "disagreements": galleries.disagreements(
            {head: (_images(test, rows), labelled.iloc[rows]) for head, rows in contested.items() if len(rows)}
        ),
        "soft_labels": galleries.soft_labels(
            _images(test, chosen), list(kinds.values()), logits["teacher"][chosen], labels[chosen], classes
        ),
    }


def _logits(test: Records) -> dict[str, np.ndarray]:
    """Every model's logits (n, classes) of the test images, in id order."""
    if not PREDICTIONS.is_file():
        raise InputError(f"{PREDICTIONS} is missing: run `dvc repro`, which makes it")
    try:
        table = pd.read_parquet(PREDICTIONS)
    except (OSError, ValueError) as error:
        raise InputError(f"{PREDICTIONS} cannot be read ({reason(error)}): run `dvc repro`") from None
    if list(table.get("id", ())) != list(test.ids):
        raise InputError(f"{PREDICTIONS} is not about the images in {test.directory}: run `dvc repro`")
    return {name: np.stack(table[f"{name}_logits"]) for name in MODELS}


def _images(records: Records, numbers: Sequence[int]) -> np.ndarray:
    """Images (n, size, size, 3) uint8 by their numbers in id order."""
    different, place = np.unique(numbers, return_inverse=True)
    wanted = records.only(np.isin(np.arange(len(records)), different))
    return np.concatenate([batch["image"] for batch in wanted.batches(64).as_numpy_iterator()])[place]


def _views(train: Records, params: Params, size: int) -> dict[str, np.ndarray]:
    """Some views of the first training image, (size, size, 3) uint8 each, by title: the first ones, and a mixed one."""
    count = number_of_views(params.budget, len(train))
    streams = {"plain": plain_images(train, size)}
    for number in [*range(min(FIRST_VIEWS, count)), *([UNMIXED] if are_mixed(params.views, count) else [])]:
        title = f"view {number}, mixed" if number == UNMIXED else f"view {number}"
        streams[title] = view_images(train, size, params.views, count, first=number * len(train))
    first = {title: next(iter(images))[0] for title, images in streams.items()}
    return {title: tf.saturate_cast(tf.round(image), tf.uint8).numpy() for title, image in first.items()}


def _describe(train: Records, test: Records, answered: int) -> str:
    images, labeled = train.manifest.size("train"), sum(train.manifest.labeled.values())
    taught = train.manifest.taught(answered)
    unlabeled = f" ({labeled:,} of them labeled; the teacher answers {taught:,})" if labeled < images else ""
    classes = len(train.manifest.classes)
    return f"{train.manifest.data}: {images:,} training{unlabeled} and {len(test):,} test images of {classes} classes"


if __name__ == "__main__":
    run(main)

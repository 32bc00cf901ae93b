"""The report's figures with images of the data set, and the choice of these images."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import softmax

from distillation.report.statistics import MODELS
from distillation.report.style import COLOURS, GREY, PAGE, styled

TEMPERATURES = (1, 2, 4, 8)
CLASSES_SHOWN = 5  # in `soft_labels`, the likeliest


@styled
def montage(images: np.ndarray, names: Sequence[str], columns: int = 10) -> Figure:
    """Images (n, height, width, 3) uint8 under their class names, row by row."""
    rows = -(-len(images) // columns)
    figure = Figure((PAGE, 0.83 * rows))
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, image, name in zip(panels, images, names, strict=False):
        axes.imshow(image)
        axes.set_title(_short(name), fontsize=6, pad=2)
    return _without_axes(figure)


@styled
def views(teacher_views: dict[str, np.ndarray], student_views: dict[str, np.ndarray]) -> Figure:
    """One image as the teacher (above) and the student (below) see it, pixel by pixel.

    Args:
        teacher_views, student_views: by the same titles, (size, size, 3) uint8, each in its own size.
    """
    columns = len(teacher_views)
    figure = Figure((min(PAGE, PAGE * columns / 6), 2.35))
    panels = figure.subplots(2, columns, squeeze=False)
    for row, images, model in zip(panels, (teacher_views, student_views), ("teacher", "student"), strict=True):
        for axes, image in zip(row, images.values(), strict=True):
            axes.imshow(image, interpolation="nearest")
        row[0].set_ylabel(f"{model}, {len(images['plain'])} px")
    for axes, title in zip(panels[0], teacher_views, strict=True):
        axes.set_title(title)
    return _without_axes(figure)


@styled
def disagreements(rows: dict[str, tuple[np.ndarray, pd.DataFrame]], columns: int = 6) -> Figure:
    """Images with the probability that each model gives to the labelled class.

    Args:
        rows: by heading, at most `columns` images (n, height, width, 3) uint8 and a table of n rows:
            `label` and, named as the models are, the probabilities (0..1).
    """
    figure = Figure((PAGE, 1.95 * len(rows)))
    for band, (heading, (images, table)) in zip(
        figure.subfigures(len(rows), 1, squeeze=False).flat, rows.items(), strict=True
    ):
        band.suptitle(heading, x=0.01, ha="left", fontsize=8, fontweight="bold")
        panels = band.subplots(2, columns, squeeze=False, height_ratios=(3, 1.1))
        for place in range(columns):
            panel, bars = panels[:, place]
            panel.axis("off")
            if place < len(table):
                row = table.iloc[place]
                panel.imshow(images[place])
                panel.set_title(f"label: {_short(row['label'])}", fontsize=7, pad=2)
                _bars(bars, [row[name] for name in MODELS], list(COLOURS.values()))
            else:
                bars.axis("off")
        panels[1, 0].set_yticks(range(len(MODELS)), MODELS.values(), fontsize=7)
    return figure


@styled
def soft_labels(
    images: np.ndarray, kinds: Sequence[str], logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> Figure:
    """The teacher's probabilities, softened by growing temperatures, beside each image.

    Args:
        images: (n, height, width, 3) uint8.
        kinds: of the images, as `by_difficulty` names them.
        logits: the teacher's, (n, classes).
        labels: (n,) integer class numbers; their bars are dark.
        classes: names.
    """
    figure = Figure((PAGE, 1.25 * len(images) + 0.3))
    panels = figure.subplots(len(images), 1 + len(TEMPERATURES), squeeze=False)
    for (panel, *charts), image, kind, row, label in zip(panels, images, kinds, logits, labels, strict=True):
        panel.imshow(image)
        panel.set_title(f"{kind}: {_short(classes[label])}", fontsize=7, pad=2)
        panel.axis("off")
        shown = np.sort(np.argsort(-row, kind="stable")[:CLASSES_SHOWN])
        for axes, temperature in zip(charts, TEMPERATURES, strict=True):
            _bars(axes, softmax(row / temperature)[shown], [COLOURS["teacher"] if c == label else GREY for c in shown])
        charts[0].set_yticks(range(len(shown)), [_short(classes[number], 18, 1) for number in shown], fontsize=6.5)
    for axes, temperature in zip(panels[0, 1:], TEMPERATURES, strict=True):
        axes.set_title(f"T = {temperature}")
    return figure


def balanced(labels: np.ndarray, count: int) -> np.ndarray:
    """Numbers of `count` images (fewer where there are fewer), taken from the classes in turn."""
    turn = pd.Series(labels).groupby(labels).cumcount().to_numpy()
    return np.lexsort((labels, turn))[:count]


def contested(probabilities: pd.DataFrame, count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the images that the models judge most differently, and of those whose label the teacher doubts.

    Args:
        probabilities: (n, models), what each gives to the labelled class.
        count: images of either kind; fewer where n is smaller. None is in both.
    """
    table = probabilities.reset_index(drop=True)
    count = min(count, -(-len(table) // 2))
    differently = (table.max(axis=1) - table.min(axis=1)).nlargest(count).index
    against = table["teacher"].drop(differently).nsmallest(count).index
    return differently.to_numpy(), against.to_numpy()


def by_difficulty(labels: np.ndarray, logits: np.ndarray) -> dict[int, str]:
    """By number, images that the teacher finds easy, ambiguous (two) and hard; fewer where n is below four.

    Ambiguous are the images whose likeliest class has a probability nearest to 0.9 and to 0.7: at even probabilities,
    T would change nothing.
    """
    probabilities = softmax(logits.astype(np.float64), axis=1)
    right, sure = probabilities[np.arange(len(labels)), labels], probabilities.max(axis=1)
    kinds = {int(right.argmax()): "easy"}
    hard = int(right.argmin())
    for confidence in (0.9, 0.7):
        nearest = np.argsort(abs(sure - confidence), kind="stable")
        free = [int(number) for number in nearest if number not in (*kinds, hard)]
        kinds |= dict.fromkeys(free[:1], "ambiguous")
    return kinds | {hard: "hard"}


def _bars(axes: Axes, probabilities: Sequence[float], colours: Sequence[str]) -> None:
    """Horizontal bars with their values, the first on top, without ticks."""
    bars = axes.barh(range(len(colours)), probabilities, color=colours, height=0.7)
    axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=6)
    margin = max(0.5, 1.5 - len(colours) / 4)  # few bars stay slim
    axes.set(xlim=(0, 1.35), ylim=(len(colours) - 1 + margin, -margin), xticks=[], yticks=[])
    axes.tick_params(axis="y", length=0)
    axes.spines["bottom"].set_visible(False)


def _short(name: str, width: int = 14, lines: int = 2) -> str:
    """A class name in at most `lines` lines of `width` characters; by default it fits over a small image."""
    return textwrap.fill(name.replace("_", " "), width, max_lines=lines, placeholder="…")


def _without_axes(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure

"""The figures of the report: plain data in, a Matplotlib figure out.

Every model keeps one colour (Okabe and Ito's, safe for the colour-blind and apart in grey) and one
marker throughout. `save` writes equal bytes for equal data.
"""

import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, Formatter, LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from scipy.special import softmax

from distillation.evaluation import MODELS

COLOURS = {"teacher": "#000000", "student_scratch": "#E69F00", "student_distilled": "#0072B2"}
MARKERS = {"teacher": "D", "student_scratch": "o", "student_distilled": "s"}
GREY = "#999999"
COLUMN, PAGE = 3.4, 7.0  # widths in inches: one column, the page
DPI = 160
TEMPERATURES = (1, 2, 4, 8)
CLASSES_SHOWN = 5  # in `soft_labels`, the likeliest

# From Matplotlib's own defaults: a user's matplotlibrc must not change the bytes.
_styled = style.context(
    [
        "default",
        {
            "font.size": 8,
            "text.parse_math": False,  # class names may hold dollar signs
            "axes.titlesize": 8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.6,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "legend.frameon": False,
            "lines.linewidth": 1.4,
            "lines.markersize": 4,
            "figure.constrained_layout.use": True,
        },
    ]
)


@_styled
def save(figure: Figure, path: Path) -> None:
    """Write `figure` as PNG without anything in it that would differ between equal runs."""
    figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None}, pil_kwargs={"optimize": True})


@_styled
def summary(metrics: dict) -> Figure:
    """Test accuracy of the three models with its interval; `metrics` is `metrics/evaluate.json`."""
    figure = Figure((COLUMN, 1.5))
    axes = figure.subplots()
    for y, name in enumerate(MODELS):
        accuracy, error = _accuracy(metrics[name])
        axes.errorbar(accuracy, y, xerr=error, color=COLOURS[name], fmt=MARKERS[name], capsize=2)
        axes.annotate(f"{accuracy:.1f}", (accuracy, y), (0, 5), textcoords="offset points", ha="center")
    _rows_of_accuracy(axes, MODELS.values())
    return figure


@_styled
def seeds(accuracies: dict[str, Sequence[float]]) -> Figure:
    """Test accuracy (0..1) by student seed, and its mean, of each model; the models by what they read as."""
    figure = Figure((COLUMN, 0.6 + 0.36 * len(accuracies)))
    axes = figure.subplots()
    names = {text: name for name, text in MODELS.items()} | {"scratch, tuned": "student_scratch"}
    for y, (text, values) in enumerate(accuracies.items()):
        name, percent = names[text], 100 * np.asarray(values)
        axes.plot(percent, np.full(len(percent), y), MARKERS[name], color=COLOURS[name], alpha=0.5, markeredgewidth=0)
        axes.plot(percent.mean(), y, "|", color=COLOURS[name], markersize=12)
        place = {"xytext": (0, 7), "ha": "center"}
        axes.annotate(f"{percent.mean():.1f}", (percent.mean(), y), textcoords="offset points", **place)
    axes.margins(x=0.1)
    _rows_of_accuracy(axes, accuracies)
    return figure


@_styled
def learning_curves(histories: dict[str, list[dict]]) -> Figure:
    """Accuracy and cross-entropy of both students by epoch, above the teacher's last validation value.

    Args:
        histories: by model, the rows of `plots/history/*.json`.
    """
    figure = Figure((PAGE, 3))
    panels = figure.subplots(1, 2)
    for axes, key, label, scale in zip(
        panels, ("accuracy", "loss"), ("accuracy (%)", "cross-entropy (nats)"), (100, 1), strict=True
    ):
        for name in ("student_scratch", "student_distilled"):
            rows = pd.DataFrame(histories[name])
            for split, line in (("train", "--"), ("validation", "-")):
                axes.plot(
                    rows["epoch"],
                    scale * rows[f"{split}_{key}"],
                    color=COLOURS[name],
                    linestyle=line,
                    marker=MARKERS[name],
                    markerfacecolor="white" if split == "train" else COLOURS[name],
                    markevery=max(1, len(rows) // 8),
                    label=f"{MODELS[name]}, {split}",
                )
        last = histories["teacher"][-1]
        reached = f"teacher, validation after its last epoch ({last['epoch']})"
        axes.axhline(scale * last[f"validation_{key}"], color=COLOURS["teacher"], linestyle=":", label=reached)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, handlelength=3)
    return figure


@_styled
def montage(images: np.ndarray, names: Sequence[str], columns: int = 10) -> Figure:
    """Pictures (n, height, width, 3) uint8 under their class names, row by row."""
    rows = -(-len(images) // columns)
    figure = Figure((PAGE, 0.83 * rows))
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, image, name in zip(panels, images, names, strict=False):
        axes.imshow(image)
        axes.set_title(_short(name), fontsize=6, pad=2)
    return _without_axes(figure)


@_styled
def views(teacher_views: np.ndarray, student_views: np.ndarray, titles: Sequence[str]) -> Figure:
    """One picture as the teacher (above) and the student (below) see it, pixel by pixel.

    Args:
        teacher_views, student_views: (views, size, size, 3) uint8, each in its own size.
        titles: of the views.
    """
    figure = Figure((PAGE * len(titles) / 6, 2.35))
    panels = figure.subplots(2, len(titles), squeeze=False)
    for row, images, model in zip(panels, (teacher_views, student_views), ("teacher", "student"), strict=True):
        for axes, image in zip(row, images, strict=True):
            axes.imshow(image, interpolation="nearest")
        row[0].set_ylabel(f"{model}, {images.shape[1]} px")
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title)
    return _without_axes(figure)


@_styled
def disagreements(rows: dict[str, tuple[np.ndarray, pd.DataFrame]], columns: int = 6) -> Figure:
    """Pictures with the probability that each model gives to the labelled class.

    Args:
        rows: by heading, at most `columns` pictures (n, height, width, 3) uint8 and a table of n rows:
            `label` and, named as the models are, the probabilities (0..1).
    """
    figure = Figure((PAGE, 1.95 * len(rows)))
    for part, (heading, (images, table)) in zip(
        figure.subfigures(len(rows), 1, squeeze=False).flat, rows.items(), strict=True
    ):
        part.suptitle(heading, x=0.01, ha="left", fontsize=8, fontweight="bold")
        panels = part.subplots(2, columns, squeeze=False, height_ratios=(3, 1.1))
        for place in range(columns):
            picture, bars = panels[:, place]
            picture.axis("off")
            if place < len(table):
                row = table.iloc[place]
                picture.imshow(images[place])
                picture.set_title(f"label: {_short(row['label'])}", fontsize=7, pad=2)
                _bars(bars, [row[name] for name in MODELS], list(COLOURS.values()))
            else:
                bars.axis("off")
        panels[1, 0].set_yticks(range(len(MODELS)), MODELS.values(), fontsize=7)
    return figure


@_styled
def soft_labels(
    images: np.ndarray, kinds: Sequence[str], logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> Figure:
    """The teacher's probabilities, softened by growing temperatures, beside each picture.

    Args:
        images: (n, height, width, 3) uint8.
        kinds: of the pictures, as `by_difficulty` names them.
        logits: the teacher's, (n, classes).
        labels: (n,) integer class numbers; their bars are dark.
        classes: names.
    """
    figure = Figure((PAGE, 1.25 * len(images) + 0.3))
    panels = figure.subplots(len(images), 1 + len(TEMPERATURES), squeeze=False)
    for (picture, *charts), image, kind, row, label in zip(panels, images, kinds, logits, labels, strict=True):
        picture.imshow(image)
        picture.set_title(f"{kind}: {_short(classes[label])}", fontsize=7, pad=2)
        picture.axis("off")
        shown = np.sort(np.argsort(-row, kind="stable")[:CLASSES_SHOWN])
        for axes, temperature in zip(charts, TEMPERATURES, strict=True):
            _bars(axes, softmax(row / temperature)[shown], [COLOURS["teacher"] if c == label else GREY for c in shown])
        charts[0].set_yticks(range(len(shown)), [_short(classes[number], 18, 1) for number in shown], fontsize=6.5)
    for axes, temperature in zip(panels[0, 1:], TEMPERATURES, strict=True):
        axes.set_title(f"T = {temperature}")
    return figure


@_styled
def cost(metrics: dict, export: dict) -> Figure:
    """Test accuracy against parameters, MACs and bytes of the exported files (`metrics/{evaluate,export}.json`)."""
    figure = Figure((PAGE, 2.7))
    panels = figure.subplots(1, 3, sharey=True)
    # The students cost the same: their intervals are drawn side by side.
    beside = {"teacher": 1, "student_scratch": 0.96, "student_distilled": 1.04}
    for axes, key, label in zip(panels, ("parameters", "macs"), ("parameters", "MACs per picture"), strict=False):
        for name, text in MODELS.items():
            accuracy, error = _accuracy(metrics[name])
            x = metrics[name][key] * beside[name]
            axes.errorbar(x, accuracy, error, color=COLOURS[name], fmt=MARKERS[name], capsize=2, label=text)
        _log_axis(axes, [metrics[name][key] for name in MODELS], label)
    for variant, row in export.items():
        accuracy = 100 * row["accuracy"]
        panels[2].plot(row["bytes"], accuracy, MARKERS["student_distilled"], color=COLOURS["student_distilled"])
        panels[2].annotate(variant, (row["bytes"], accuracy), (0, 5), textcoords="offset points", ha="center", size=7)
    sizes = [row["bytes"] for row in export.values()]
    _log_axis(panels[2], sizes, "exported file of the distilled student", EngFormatter("B"))
    panels[0].set_ylabel("test accuracy (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@_styled
def latency(rows: list[dict], accuracies: dict[str, float]) -> Figure:
    """Test accuracy against the time that one picture takes on one thread.

    Args:
        rows: `latency` in `benchmarks/results.json`.
        accuracies: 0..1, by the `network` of the rows.
    """
    figure = Figure((COLUMN, 2.2))
    axes = figure.subplots()
    for row in rows:
        network, milliseconds = row["network"], row["milliseconds"]
        name = "teacher" if network.startswith("teacher") else "student_distilled"
        accuracy = 100 * accuracies[network]
        axes.plot(milliseconds, accuracy, MARKERS[name], color=COLOURS[name])
        text = f"{network.replace('student', 'distilled')}\n{milliseconds:.2f} ms"
        above = network.endswith("float32")  # int8 stands near it
        place = {"xytext": (0, 5 if above else -5), "va": "bottom" if above else "top"}
        axes.annotate(text, (milliseconds, accuracy), textcoords="offset points", ha="center", size=7, **place)
    times = [row["milliseconds"] for row in rows]
    _log_axis(axes, times, "milliseconds for one picture on one thread", StrMethodFormatter("{x:g}"))
    axes.set(ylabel="test accuracy (%)")
    axes.margins(y=0.4)
    return figure


@_styled
def reliability(rows: dict[str, list[dict]], metrics: dict) -> Figure:
    """Accuracy against confidence, a panel per model; the area of a dot grows with its bin's share of pictures.

    Args:
        rows: by model, the rows of `plots/reliability/*.json`.
        metrics: `metrics/evaluate.json`, for the ECE.
    """
    figure = Figure((PAGE, 2.75))
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes, (name, text) in zip(panels, MODELS.items(), strict=True):
        bins = 100 * pd.DataFrame(rows[name])
        axes.plot((0, 100), (0, 100), color=GREY, linewidth=0.8, linestyle="--")
        axes.plot(bins["confidence"], bins["accuracy"], color=COLOURS[name], linewidth=0.7)
        sizes = 6 + 1.5 * bins["share"]
        axes.scatter(bins["confidence"], bins["accuracy"], sizes, COLOURS[name], MARKERS[name], zorder=3, clip_on=False)
        axes.set(title=f"{text}: ECE {metrics[name]['ece']:.3f}", xlabel="confidence (%)", aspect="equal")
    panels[0].set_ylabel("accuracy (%)")
    return figure


@_styled
def sweep(rows: list[dict]) -> Figure:
    """Accuracy of the distilled student by alpha and temperature; rows of these two, `scratch` and `distilled`."""
    table = 100 * pd.DataFrame(rows).pivot(index="alpha", columns="temperature", values="distilled")
    figure = Figure((COLUMN, 2.6))
    axes = figure.subplots()
    image = axes.imshow(table, cmap="cividis", origin="lower", aspect="auto")
    middle = (np.nanmin(table) + np.nanmax(table)) / 2
    for (y, x), value in np.ndenumerate(table):
        axes.annotate(f"{value:.1f}", (x, y), ha="center", va="center", color="black" if value > middle else "white")
    axes.set_xticks(range(table.shape[1]), [f"{value:g}" for value in table.columns])
    axes.set_yticks(range(table.shape[0]), [f"{value:g}" for value in table.index])
    axes.set(xlabel="temperature", ylabel="alpha (weight of the hard label)")
    axes.set_title(f"distilled (from scratch: {100 * rows[0]['scratch']:.1f} %)")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, label="validation accuracy (%), distilled")
    return figure


@_styled
def label_curve(rows: list[dict]) -> Figure:
    """Accuracy of the three models by the share of labels; rows of `labeled_fraction` and of these."""
    table = pd.DataFrame(rows).set_index("labeled_fraction")
    return _curves(table.set_index(100 * table.index), "share of the training labels (%)")


@_styled
def epoch_curve(rows: list[dict]) -> Figure:
    """Accuracy of the three models by how long the students were trained; rows of `epochs` and of these."""
    return _curves(pd.DataFrame(rows).set_index("epochs"), "epochs")


def _curves(table: pd.DataFrame, xlabel: str) -> Figure:
    figure = Figure((COLUMN, 2.4))
    axes = figure.subplots()
    for name, text in MODELS.items():
        line = f"{MARKERS[name]}-" if table[text].nunique() > 1 else ":"  # the latter: it does not depend on x
        axes.plot(table.index, 100 * table[text], line, color=COLOURS[name], label=text)
    axes.set(xscale="log", xlabel=xlabel, ylabel="validation accuracy (%)")
    axes.set_xticks(table.index, [f"{value:g}" for value in table.index])
    axes.minorticks_off()
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.6)
    axes.legend()
    return figure


def balanced(labels: np.ndarray, count: int) -> np.ndarray:
    """Numbers of `count` pictures (fewer where there are fewer), taken from the classes in turn."""
    turn = pd.Series(labels).groupby(labels).cumcount().to_numpy()
    return np.lexsort((labels, turn))[:count]


def contested(probabilities: pd.DataFrame, count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the pictures that the models judge most differently, and of those whose label the teacher doubts.

    Args:
        probabilities: (n, models), what each gives to the labelled class.
        count: pictures of either kind; fewer where n is smaller. None is in both.
    """
    table = probabilities.reset_index(drop=True)
    count = min(count, -(-len(table) // 2))
    differently = (table.max(axis=1) - table.min(axis=1)).nlargest(count).index
    against = table["teacher"].drop(differently).nsmallest(count).index
    return differently.to_numpy(), against.to_numpy()


def by_difficulty(labels: np.ndarray, logits: np.ndarray) -> dict[int, str]:
    """What the teacher finds easy, ambiguous (two pictures) and hard, by number; fewer where n is below four.

    Ambiguous is an answer about 0.9 and one about 0.7 sure: at an even chance T would change nothing.
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


def _accuracy(row: dict) -> tuple[float, np.ndarray]:
    """Accuracy in percent, and how far its interval reaches below and above it, (2, 1)."""
    low, middle, high = (100 * row[key] for key in ("accuracy_ci_low", "accuracy", "accuracy_ci_high"))
    return middle, np.maximum(0, [[middle - low], [high - middle]])


def _rows_of_accuracy(axes: Axes, models: Collection[str]) -> None:
    """A row per model, the first on top, above an axis of test accuracy."""
    axes.set(xlabel="test accuracy (%)", ylim=(len(models) - 0.6, -0.8))
    axes.set_yticks(range(len(models)), models)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)


def _bars(axes: Axes, probabilities: Sequence[float], colours: Sequence[str]) -> None:
    """Horizontal bars with their values, the first on top, without ticks."""
    bars = axes.barh(range(len(colours)), probabilities, color=colours, height=0.7)
    axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=6)
    margin = max(0.5, 1.5 - len(colours) / 4)  # few bars stay slim
    axes.set(xlim=(0, 1.35), ylim=(len(colours) - 1 + margin, -margin), xticks=[], yticks=[])
    axes.tick_params(axis="y", length=0)
    axes.spines["bottom"].set_visible(False)


def _log_axis(axes: Axes, values: Sequence[float], label: str, formatter: Formatter | None = None) -> None:
    axes.set(xscale="log", xlim=(min(values) / 2, max(values) * 2), xlabel=label)
    decades = np.log10(max(values) / min(values))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1 else (2, 5)))
    axes.xaxis.set_major_formatter(formatter or EngFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _short(name: str, width: int = 14, lines: int = 2) -> str:
    """A class name in at most `lines` lines of `width` characters; by default it fits over a small picture."""
    return textwrap.fill(name.replace("_", " "), width, max_lines=lines, placeholder="…")


def _without_axes(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure

"""The report's figures of metrics: plain data in, a Matplotlib figure out."""

import itertools

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from distillation.report.statistics import MODELS
from distillation.report.style import COLOURS, COLUMN, GREY, MARKERS, PAGE, log_axis, rows_of_accuracy, styled

TERM_COLOURS = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


@styled
def summary(metrics: dict) -> Figure:
    """Test accuracy of the three models with its interval; `metrics` is `metrics/evaluate.json`."""
    figure = Figure((COLUMN, 1.5))
    axes = figure.subplots()
    for y, name in enumerate(MODELS):
        accuracy, error = _accuracy(metrics[name])
        axes.errorbar(accuracy, y, xerr=error, color=COLOURS[name], fmt=MARKERS[name], capsize=2)
        axes.annotate(f"{accuracy:.1f}", (accuracy, y), (0, 5), textcoords="offset points", ha="center")
    rows_of_accuracy(axes, MODELS.values())
    return figure


@styled
def learning_curves(histories: dict[str, list[dict]]) -> Figure:
    """Accuracy and cross-entropy of both students while they train, and the teacher's last validation value.

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
                    rows["images"],
                    scale * rows[f"{split}_{key}"],
                    color=COLOURS[name],
                    linestyle=line,
                    marker=MARKERS[name],
                    markerfacecolor="white" if split == "train" else COLOURS[name],
                    markevery=max(1, len(rows) // 8),
                    label=f"{MODELS[name]}, {split}",
                )
        last = histories["teacher"][-1]
        reached = "teacher, validation at its end"
        axes.axhline(scale * last[f"validation_{key}"], color=COLOURS["teacher"], linestyle=":", label=reached)
        axes.set(xlabel="images shown", ylabel=label)
        axes.xaxis.set_major_formatter(EngFormatter())
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, handlelength=3)
    return figure


@styled
def objective(rows: list[dict]) -> Figure:
    """The weighted terms of the objective during training; `rows` are those of `plots/history/*.json`."""
    table = pd.DataFrame(rows).set_index("images").filter(like="objective_")
    table = table.rename(columns=lambda name: name.removeprefix("objective_"))
    names = sorted(table.columns, key=lambda name: (name not in ("hard", "soft"), name))
    # A term keeps its colour, whichever others there are.
    colours = dict(zip(names, itertools.cycle(TERM_COLOURS), strict=False))
    table = table[[name for name in names if table[name].any()]]
    figure = Figure((PAGE, 2.4))
    axes = figure.subplots()
    axes.stackplot(
        table.index, table.T, labels=table.columns, colors=[colours[name] for name in table.columns], linewidth=0
    )
    axes.set(xlabel="images shown", ylabel="weighted term")
    axes.margins(x=0)
    axes.xaxis.set_major_formatter(EngFormatter())
    figure.legend(loc="outside right upper", reverse=True)
    return figure


@styled
def cost(metrics: dict, export: dict) -> Figure:
    """Test accuracy against parameters, MACs and bytes of the exported files (`metrics/{evaluate,export}.json`)."""
    figure = Figure((PAGE, 2.7))
    panels = figure.subplots(1, 3, sharey=True)
    # The students cost the same: their intervals are drawn side by side.
    beside = {"teacher": 1, "student_scratch": 0.96, "student_distilled": 1.04}
    for axes, key, label in zip(panels, ("parameters", "macs"), ("parameters", "MACs per image"), strict=False):
        for name, text in MODELS.items():
            accuracy, error = _accuracy(metrics[name])
            x = metrics[name][key] * beside[name]
            axes.errorbar(x, accuracy, error, color=COLOURS[name], fmt=MARKERS[name], capsize=2, label=text)
        log_axis(axes, [metrics[name][key] for name in MODELS], label)
    for variant, row in export.items():
        accuracy = 100 * row["accuracy"]
        panels[2].plot(row["bytes"], accuracy, MARKERS["student_distilled"], color=COLOURS["student_distilled"])
        panels[2].annotate(variant, (row["bytes"], accuracy), (0, 5), textcoords="offset points", ha="center", size=7)
    sizes = [row["bytes"] for row in export.values()]
    log_axis(panels[2], sizes, "exported file of the distilled student", EngFormatter("B"))
    panels[0].set_ylabel("test accuracy (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def reliability(rows: dict[str, list[dict]], metrics: dict) -> Figure:
    """Accuracy against confidence, a panel per model; the area of a dot grows with its bin's share of images.

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
        look = {"color": COLOURS[name], "marker": MARKERS[name]}
        axes.scatter(bins["confidence"], bins["accuracy"], sizes, **look, zorder=3, clip_on=False)
        axes.set(title=f"{text}: ECE {metrics[name]['ece']:.3f}", xlabel="confidence (%)", aspect="equal")
    panels[0].set_ylabel("accuracy (%)")
    return figure


def _accuracy(row: dict) -> tuple[float, np.ndarray]:
    """Accuracy in percent, and how far its interval reaches below and above it, (2, 1)."""
    low, middle, high = (100 * row[key] for key in ("accuracy_ci_low", "accuracy", "accuracy_ci_high"))
    return middle, np.maximum(0, [[middle - low], [high - middle]])

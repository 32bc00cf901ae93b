"""Figures of a set of experiments: `dvc exp show --json | python -m studies.sweeps FOLDER`.

It uses the experiments that differ from `params.yaml` only in the studied parameters: alpha and
temperature (`sweep.json`, `sweep.png`), the share of labels (`labels.json`, `labels.png`), how long the students train
(`epochs.json`, `epochs.png`), or the teacher's answers (`ablation.json`, with the file of `studies.naive_cache`).
Accuracy is that on the validation split.
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from distillation.files import read_json, replacing, write_json
from distillation.params import leaves, read_yaml
from distillation.report.statistics import MODELS
from distillation.report.style import COLOURS, COLUMN, MARKERS, save, styled


@styled
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


@styled
def label_curve(rows: list[dict]) -> Figure:
    """Accuracy of the three models by the share of labels; rows of `labeled_fraction` and of these."""
    table = pd.DataFrame(rows).set_index("labeled_fraction")
    return _curves(table.set_index(100 * table.index), "share of the training labels (%)")


@styled
def patience_curve(rows: list[dict]) -> Figure:
    """Accuracy of the three models by how many images the students were shown; rows of `shown` and of these."""
    return _curves(pd.DataFrame(rows).set_index("shown"), "images shown")


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


STUDIES = {
    "sweep": (("distill.alpha", "distill.temperature"), sweep),
    "labels": (("data.labeled_fraction",), label_curve),
    "epochs": (("budget.shown",), patience_curve),
}


def main(shown: list[dict], base: dict, folder: Path) -> None:
    """Write the rows of each study and draw them.

    Args:
        shown: what `dvc exp show --json` prints.
        base: the content of params.yaml.
        folder: where the studies go.
    """
    found = list(_experiments(shown))
    for study, (studied, draw) in STUDIES.items():
        rows = _rows(found, leaves(base), studied)
        write_json(folder / f"{study}.json", rows)
        with replacing(folder / f"{study}.png") as temporary:
            save(draw(rows), temporary)
    answered = ("budget.answered", "distill.weights.features")
    ablation = [
        {"cache": "consistent"} | {key: row[key] for key in ("answered", "features", "distilled")}
        for row in _rows(found, leaves(base), answered)
    ]
    if (naive := folder / "naive_cache.json").exists():
        for row in read_json(naive):
            kept = {"features": row["features"], "distilled": row["validation_accuracy"]}
            ablation.append({"cache": "naive", "answered": base["budget"]["answered"]} | kept)
    write_json(folder / "ablation.json", ablation)


def _experiments(shown: list[dict]):
    """Parameters and accuracies of the workspace and of each experiment that succeeded, the newest first."""
    for revision in shown:
        groups = revision.get("experiments") or []
        done = [group["revs"] for group in groups if (group["executor"] or {"state": "success"})["state"] == "success"]
        for experiment in [revision, *itertools.chain(*done)]:
            data = experiment.get("data")
            if data and not experiment.get("error"):
                metrics = {Path(path).stem: row.get("data") or {} for path, row in data["metrics"].items()}
                accuracies = {text: metrics.get(model, {}).get("validation_accuracy") for model, text in MODELS.items()}
                yield leaves(data["params"]["params.yaml"]["data"]), accuracies


def _rows(found: list[tuple[dict, dict]], base: dict, studied: tuple[str, ...]) -> list[dict]:
    """Accuracies by the values of the studied parameters; one row for each, in order."""
    rows = {}
    for params, accuracies in found:
        if all(value == params.get(name) for name, value in base.items() if name not in studied):
            values = tuple(params[name] for name in studied)
            named = {name.rpartition(".")[2]: value for name, value in zip(studied, values, strict=True)}
            rows.setdefault(values, named | accuracies)
    return [rows[values] for values in sorted(rows)]


if __name__ == "__main__":
    main(json.load(sys.stdin), read_yaml("params.yaml"), Path(sys.argv[1]))

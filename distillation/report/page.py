"""The report as an HTML page, and as tables for the terminal and for Markdown."""

import base64
import string
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from distillation.params import Params
from distillation.report.statistics import MODELS, confusions, hardest_classes
from distillation.report.verdict import advantage, gain, verdict

IN_BRIEF = ["test accuracy", "95 % interval", "ECE", "parameters", "MACs"]
TEMPLATE = Path(__file__).with_name("page.html")
PIXELS_PER_INCH = 115  # of a figure, on the page

CAPTIONS = {
    "summary": "Test accuracy with its 95 % interval (Wilson).",
    "learning_curves": "Both students during training. They share network, initial weights and number of steps, and "
    "differ in the objective. The cross-entropy is that of the labels. Training values are means over augmented views "
    "since the previous point. Validation values before the last use at most 2,000 images.",
    "objective": "The objective of the distilled student: its weighted terms, stacked, as means since the previous "
    "point. Their sum is the objective.",
    "cost": "Test accuracy (with 95 % intervals) against cost. The students cost the same and are drawn side by side. "
    "On the right, the LiteRT files of the distilled student.",
    "reliability": "How often a model is right, by how sure it is; on the dashed line the two agree. The area of a dot "
    "grows with the share of test images in its bin. ECE: expected calibration error.",
    "montage": "Training images, taken from the classes in turn.",
    "views": "A training image: the plain view, on which models are validated and tested, and augmented views. "
    "Teacher and student see the same views, each at its own resolution.",
    "disagreements": "Test images, and the probability that each model gives to their label.",
    "soft_labels": "The teacher's probabilities for test images, softened by temperature T; black is the labelled "
    "class (of many classes, the likeliest are shown). This run distils at T = {temperature:g}.",
}


def comparison(metrics: dict) -> pd.DataFrame:
    """The three models side by side, as text; `metrics` is `metrics/evaluate.json`."""
    rows = {}
    for name, text in MODELS.items():
        row = metrics[name]
        rows[text] = {
            "test accuracy": f"{100 * row['accuracy']:.1f} %",
            "95 % interval": f"{100 * row['accuracy_ci_low']:.1f} to {100 * row['accuracy_ci_high']:.1f} %",
            "balanced accuracy": f"{100 * row['balanced_accuracy']:.1f} %",
            "ECE": f"{row['ece']:.3f}",
            "parameters": f"{row['parameters']:,}",
            "MACs": f"{row['macs'] / 1e6:,.1f} M",
            "cross-entropy": f"{row['nll']:.3f}",
            "ROC AUC": f"{row['roc_auc']:.3f}",
            "agrees with teacher": f"{100 * row['agreement_with_teacher']:.1f} %" if name != "teacher" else "",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def exported(export: dict) -> pd.DataFrame:
    """The exported files side by side, as text; `export` is `metrics/export.json`."""
    rows = {
        f"student_{variant}.tflite": {
            "test accuracy": f"{100 * row['accuracy']:.1f} %",
            "size": f"{row['bytes'] / 1000:,.1f} kB",
            "largest error of a probability": f"{row['max_abs_probability_error']:.2g}",
        }
        for variant, row in sorted(export.items(), key=lambda item: -item[1]["bytes"])
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def by_class(labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> dict[str, pd.DataFrame]:
    """By heading, as text: the classes that a model recognises least, and its commonest mistakes.

    Of labels and predicted classes, both (n,) integer, and the names of the classes.
    """
    hardest, mistakes = hardest_classes(labels, predicted, classes), confusions(labels, predicted, classes)
    shares = {"accuracy": "test accuracy", "share": "of the class"}
    tables = {"Classes that the distilled student recognises least": hardest, "Its commonest mistakes": mistakes}
    return {
        heading: table.assign(**{name: (100 * table[name]).map("{:.0f} %".format) for name in shares if name in table})
        .rename(columns=shares | {"taken_for": "most often taken for" if table is hardest else "taken for"})
        .set_index("class")
        for heading, table in tables.items()
        if len(table)
    }


def markdown(table: pd.DataFrame) -> str:
    """A table of text, as Markdown."""
    rows = [["model", *table.columns], ["---", *["---:"] * table.shape[1]], *table.reset_index().values.tolist()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def html(
    params: Params,
    metrics: dict,
    export: dict,
    data: str,
    classes: dict[str, pd.DataFrame],
    drawn: dict[str, Figure],
    folder: Path,
) -> str:
    """The whole page, with its figures inside.

    Args:
        params: of the run.
        metrics, export: `metrics/evaluate.json`, `metrics/export.json`.
        data: one sentence about the data set.
        classes: tables by heading, as `by_class` returns them.
        drawn: figures by name, in the order of the page.
        folder: where they are as PNG.
    """
    table = comparison(metrics)
    settings = yaml.safe_dump(params.model_dump(), sort_keys=False)
    accuracies = ", ".join(f"{name} {row['test accuracy']} ({row['95 % interval']})" for name, row in table.iterrows())
    ratio = metrics["compression"]
    figures = ""
    for name, figure in drawn.items():
        png = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        caption = _text(CAPTIONS[name].format(temperature=params.distill.temperature))
        width = round(PIXELS_PER_INCH * figure.get_figwidth())
        figures += f'<figure><img src="data:image/png;base64,{png}" width="{width}" alt="{name}">\n'
        figures += f"<figcaption>{caption}</figcaption></figure>\n"
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        data=_text(data),
        verdict=verdict(metrics),
        gain=_text(gain(metrics)).capitalize(),
        advantage=_text(advantage(metrics)).capitalize(),
        accuracies=_text(accuracies),
        parameters=f"{ratio['parameters']:,.1f}",
        macs=f"{ratio['macs']:,.1f}",
        comparison=_table(table),
        exported=_table(exported(export)),
        classes="".join(f"<h2>{heading}</h2>\n{_table(table)}\n" for heading, table in classes.items()),
        figures=figures,
        settings=escape(settings),
    )


def _text(text: str) -> str:
    """Escaped, with minus signs, and per cent signs that stay with their numbers."""
    return escape(text).replace(" -", " \N{MINUS SIGN}").replace(" %", "&nbsp;%")


def _table(table: pd.DataFrame) -> str:
    return f'<div class="wide">{table.rename_axis(None).to_html(border=0)}</div>'

"""Draw the figures and write the report: `plots/figures/*.png`, `plots/report*.html` and `plots/table.md`."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
import yaml
from matplotlib.figure import Figure
from scipy.special import softmax

from distillation import figures
from distillation.console import run
from distillation.errors import InputError, reason
from distillation.evaluation import MODELS, PREDICTIONS
from distillation.files import read_json, replacing
from distillation.params import Params
from distillation.records import Records, decode
from distillation.views import augmented, plain

FIGURES, REPORT, TABLE = Path("plots/figures"), Path("plots/report.html"), Path("plots/table.md")
PUBLIC = Path("plots/report_without_pictures.html")  # the pictures of a data set may not be ours to publish
PICTURES = {"montage", "views", "disagreements", "soft_labels"}  # figures that show some
IN_BRIEF = ["test accuracy", "95 % interval", "ECE", "parameters", "MACs"]
PIXELS_PER_INCH = 115  # of a figure, in the report

CAPTIONS = {
    "summary": "Test accuracy with its 95 % interval (Wilson).",
    "learning_curves": "Both students by epoch: the same network, initial weights and number of steps, another loss. "
    "The cross-entropy shown is that of the hard labels. Training values are means over an epoch of augmented views.",
    "cost": "Test accuracy (with 95 % intervals) against cost. The students cost the same and are drawn side by side. "
    "On the right, the LiteRT files of the distilled student.",
    "reliability": "How often a model is right, by how sure it is; on the dashed line the two agree. The area of a dot "
    "grows with the share of test pictures in its bin. ECE: expected calibration error.",
    "montage": "Training pictures, taken from the classes in turn.",
    "views": "A training picture: the plain view, on which models are validated and tested, and augmented views. "
    "Teacher and student see the same views, each at its own resolution.",
    "disagreements": "Test pictures, and the probability that each model gives to the class they are labelled with.",
    "soft_labels": "What the teacher answers to test pictures, softened by temperature T; black is the labelled "
    "class (of many classes, the likeliest are shown). This run distils at T = {temperature:g}.",
}

STYLE = """
body { max-width: 900px; margin: 3rem auto; padding: 0 1rem; color: #1a1a1a; background: #fff;
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
.answer { font-size: 1.15rem; border-left: 4px solid #0072b2; padding-left: 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem 1rem .3rem 0; text-align: right; vertical-align: bottom; border-bottom: 1px solid #ddd; }
td, tbody th { white-space: nowrap; font-weight: normal; } th:first-child { text-align: left; }
figure { margin: 2.5rem 0; } figcaption { color: #555; font-size: .9rem; max-width: 44rem; }
img { max-width: 100%; height: auto; background: #fff; }
code, pre { font: .9em ui-monospace, Menlo, Consolas, monospace; } pre { padding: 1rem; background: #f4f4f4; }
pre { columns: 2; overflow-x: auto; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818; } figcaption { color: #aaa; }
  th, td { border-color: #444; } pre { background: #262626; } }
"""


def main(params: Params) -> str:
    """Write figures, report and table; return the table and the verdict, for the terminal."""
    metrics, export = read_json("metrics/evaluate.json"), read_json("metrics/export.json")
    train, test = Records("data/records", "train", labeled_only=True), Records("data/records", "test")
    drawn = _draw(params, metrics, export, train, test)
    with replacing(FIGURES) as directory:
        directory.mkdir()
        for name, figure in drawn.items():
            figures.save(figure, directory / f"{name}.png")
    table, data = _comparison(metrics), _describe(train, test)
    _write(TABLE, _markdown(table[IN_BRIEF]))
    for path, left_out in ((REPORT, set()), (PUBLIC, PICTURES)):
        shown = {name: figure for name, figure in drawn.items() if name not in left_out}
        _write(path, _html(params, metrics, data, table, _exported(export), shown))
    brief = table[IN_BRIEF].drop(columns="ECE").to_string()
    return f"\n{data}\n\n{brief}\n\n{_gain(metrics)}\n{_verdict(metrics)}\n\nreport: {REPORT}"


def _draw(params: Params, metrics: dict, export: dict, train: Records, test: Records) -> dict[str, Figure]:
    """Every figure of the report by name."""
    classes, labels = np.array(test.manifest.classes), test.labels
    logits = _logits(test)
    probabilities = {name: softmax(values.astype(np.float64), axis=1) for name, values in logits.items()}
    labelled = pd.DataFrame({name: values[np.arange(len(test)), labels] for name, values in probabilities.items()})
    differently, against = figures.contested(labelled)
    labelled["label"] = classes[labels]
    contested = {
        "The models disagree most": differently,
        "Of the others, the teacher believes the label least": against,
    }
    sample = figures.balanced(train.labels, 50)
    kinds = figures.by_difficulty(labels, logits["teacher"])
    chosen = list(kinds)
    teacher_views, student_views = (_views(params, train, size.image_size) for size in (params.teacher, params.student))
    titles = ["plain", *(f"view {number}" for number in range(len(teacher_views) - 1))]
    history, bins = (
        {name: read_json(f"plots/{plot}/{name}.json") for name in MODELS} for plot in ("history", "reliability")
    )
    return {
        "summary": figures.summary(metrics),
        "learning_curves": figures.learning_curves(history),
        "cost": figures.cost(metrics, export),
        "reliability": figures.reliability(bins, metrics),
        "montage": figures.montage(_pictures(train, sample), classes[train.labels[sample]]),
        "views": figures.views(teacher_views, student_views, titles),
        "disagreements": figures.disagreements(
            {head: (_pictures(test, rows), labelled.iloc[rows]) for head, rows in contested.items() if len(rows)}
        ),
        "soft_labels": figures.soft_labels(
            _pictures(test, chosen), list(kinds.values()), logits["teacher"][chosen], labels[chosen], classes
        ),
    }


def _logits(test: Records) -> dict[str, np.ndarray]:
    """Every model's logits (n, classes) of the test pictures, in id order."""
    if not PREDICTIONS.is_file():
        raise InputError(f"{PREDICTIONS} is missing: run `dvc repro`, which makes it")
    try:
        table = pd.read_parquet(PREDICTIONS)
    except (OSError, ValueError) as error:
        raise InputError(f"{PREDICTIONS} cannot be read ({reason(error)}): run `dvc repro`") from None
    if list(table.get("id", ())) != list(test.ids):
        raise InputError(f"{PREDICTIONS} is not about the pictures in {test.directory}: run `dvc repro`")
    return {name: np.stack(table[f"{name}_logits"]) for name in MODELS}


def _pictures(records: Records, numbers: Sequence[int]) -> np.ndarray:
    """Pictures (n, size, size, 3) uint8 by their numbers in id order."""
    wanted = tf.constant(numbers, tf.int64)
    numbered = records.dataset().take(max(numbers) + 1).enumerate()
    found = numbered.filter(lambda number, _: tf.reduce_any(number == wanted))
    images = {
        int(number): decode(serialised, records.manifest.image_size)["image"].numpy() for number, serialised in found
    }
    return np.stack([images[number] for number in numbers])


def _views(params: Params, train: Records, size: int, most: int = 5) -> np.ndarray:
    """The first training picture's plain view and its first augmented ones: (views, size, size, 3) uint8."""
    image = _pictures(train, [0])
    numbers = np.arange(min(most, params.views.count))
    images, ids = np.repeat(image, len(numbers), axis=0), np.repeat(train.ids[:1], len(numbers))
    seen = tf.concat([plain(image, size), augmented(images, tf.constant(ids), numbers, size, params.views)], axis=0)
    return tf.saturate_cast(tf.round(seen), tf.uint8).numpy()


def _comparison(metrics: dict) -> pd.DataFrame:
    """The three models side by side, as text."""
    rows = {}
    for name, text in MODELS.items():
        row = metrics[name]
        rows[text] = {
            "test accuracy": f"{100 * row['accuracy']:.1f} %",
            "95 % interval": f"{100 * row['accuracy_ci_low']:.1f} to {100 * row['accuracy_ci_high']:.1f} %",
            "ECE": f"{row['ece']:.3f}",
            "parameters": f"{row['parameters']:,}",
            "MACs": f"{row['macs'] / 1e6:,.1f} M",
            "cross-entropy": f"{row['nll']:.3f}",
            "ROC AUC": f"{row['roc_auc']:.3f}",
            "agrees with teacher": f"{100 * row['agreement_with_teacher']:.1f} %" if name != "teacher" else "",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _exported(export: dict) -> pd.DataFrame:
    rows = {
        f"student_{variant}.tflite": {
            "test accuracy": f"{100 * row['accuracy']:.1f} %",
            "size": f"{row['bytes'] / 1000:,.1f} kB",
            "largest error of a probability": f"{row['max_abs_probability_error']:.2g}",
        }
        for variant, row in sorted(export.items(), key=lambda item: -item[1]["bytes"])
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _describe(train: Records, test: Records) -> str:
    source, classes = train.manifest.source, len(train.manifest.classes)
    name = f"{source['name']} {source['version']}".strip()  # a folder has no version
    images, labeled = train.manifest.size("train"), sum(train.manifest.labeled.values())
    unlabeled = f" ({labeled:,} of them labeled)" if labeled < images else ""
    return f"{name}: {images:,} training{unlabeled} and {len(test):,} test pictures of {classes} classes"


def _gain(metrics: dict) -> str:
    gain = metrics["distilled_minus_scratch"]
    value, low, high = (f"{100 * gain[key]:+.1f}" for key in ("accuracy", "ci_low", "ci_high"))
    p = "p < 0.001" if gain["p_value"] < 0.001 else f"p = {gain['p_value']:.2g}"
    return f"distilled minus scratch: {value} points (95 % interval {low} to {high}, {p})"


def _verdict(metrics: dict) -> str:
    """One sentence; clear is what both the interval and McNemar's test find clear."""
    gain = metrics["distilled_minus_scratch"]
    if gain["p_value"] < 0.05 and gain["ci_low"] > 0:
        return "Distillation helped: the gain exceeds what the choice of test pictures explains."
    if gain["p_value"] < 0.05 and gain["ci_high"] < 0:
        return "Distillation hurt: the loss exceeds what the choice of test pictures explains."
    return "Undecided: these test pictures cannot tell the two students apart."


def _markdown(table: pd.DataFrame) -> str:
    rows = [["model", *table.columns], ["---", *["---:"] * table.shape[1]], *table.reset_index().values.tolist()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _html(params: Params, metrics: dict, data: str, table: pd.DataFrame, export: pd.DataFrame, drawn: dict) -> str:
    settings = yaml.safe_dump(params.model_dump(), sort_keys=False)
    accuracies = ", ".join(f"{name} {row['test accuracy']} ({row['95 % interval']})" for name, row in table.iterrows())
    ratio = metrics["compression"]
    images = ""
    for name, figure in drawn.items():
        png = base64.b64encode((FIGURES / f"{name}.png").read_bytes()).decode()
        caption = _text(CAPTIONS[name].format(temperature=params.distill.temperature))
        width = round(PIXELS_PER_INCH * figure.get_figwidth())
        images += f'<figure><img src="data:image/png;base64,{png}" width="{width}" alt="{name}">\n'
        images += f"<figcaption>{caption}</figcaption></figure>\n"
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Distilled or from scratch?</title><style>{STYLE}</style></head>
<body>
<h1>Does a small student learn more from a teacher than from the labels alone?</h1>
<p>{_text(data)}.</p>
<p class="answer"><strong>{_verdict(metrics)}</strong><br>{_text(_gain(metrics)).capitalize()}.</p>
<p>Test accuracy, with 95&nbsp;% interval: {_text(accuracies)}. The teacher has {ratio["parameters"]:,.1f} times the
student's parameters and {ratio["macs"]:,.1f} times its multiply-accumulates (MACs).</p>
<p>The intervals say what other test pictures might have shown. How much another training run might differ, only other
values of <code>student.seed</code> can tell.</p>
<h2>Comparison</h2>
{_table(table)}
<p>Intervals of accuracies are Wilson's. The gain's interval is from a paired bootstrap, its p-value from McNemar's
exact test. ECE is the expected calibration error.</p>
<h2>Exported student</h2>
{_table(export)}
<p>The largest error is that against the Keras model, over all test pictures and classes.</p>
<h2>Figures</h2>
{images}<h2>To repeat it</h2>
<p>Put these settings into <code>params.yaml</code> and run <code>dvc repro</code>. To try another value,
<code>dvc exp run -S distill.alpha=0.6</code>; then <code>dvc exp show --only-changed</code> and
<code>dvc metrics diff</code> compare.</p>
<pre>{escape(settings)}</pre>
</body>
</html>
"""


def _text(text: str) -> str:
    """Escaped, with minus signs, and per cent signs that stay with their numbers."""
    return escape(text).replace(" -", " \N{MINUS SIGN}").replace(" %", "&nbsp;%")


def _table(table: pd.DataFrame) -> str:
    return f'<div class="wide">{table.to_html(border=0)}</div>'


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run(main)

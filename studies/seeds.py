"""What several student seeds show: `python -m studies.seeds results/cats_vs_dogs` writes seeds.md and seeds.png there.

In the record, `seeds/N.json` is `metrics/evaluate.json` of the preset with `student.seed: N`, and
`seeds/N.scratch.json` the same of scratch alone, tuned for itself (by `seeds/scratch_tuned.yaml`).
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from distillation.files import replacing
from distillation.report.statistics import MODELS
from distillation.report.style import COLOURS, COLUMN, MARKERS, rows_of_accuracy, save, styled


def main(record: Path) -> str:
    """Write the table and the figure; return the table."""
    rows = _rows(record)
    text = _table(rows)
    with replacing(record / "seeds.md") as temporary:
        temporary.write_text(f"{text}\n")
    with replacing(record / "seeds.png") as temporary:
        save(draw({name: row["accuracy"] for name, row in rows.items()}), temporary)
    return text


@styled
def draw(accuracies: dict[str, Sequence[float]]) -> Figure:
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
    rows_of_accuracy(axes, accuracies)
    return figure


def _rows(record: Path) -> dict[str, pd.DataFrame]:
    """Scores of each model by seed, the most accurate model first."""
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(record.glob("seeds/*.json"))}
    rows = {}
    for model, text in MODELS.items():
        rows[text] = pd.DataFrame({seed: run[model] for seed, run in runs.items() if seed.isdigit()}).T
    tuned = {seed.removesuffix(".scratch"): run["student_scratch"] for seed, run in runs.items() if not seed.isdigit()}
    if tuned:
        rows["scratch, tuned"] = pd.DataFrame(tuned).T
    return dict(sorted(rows.items(), key=lambda item: -item[1]["accuracy"].mean()))


def _table(rows: dict[str, pd.DataFrame]) -> str:
    """Mean ± standard deviation over the seeds, and the paired gain over each scratch with its 95 % t interval."""
    table = "| model | n | test accuracy | ECE |\n| --- | ---: | ---: | ---: |\n"
    for text, row in rows.items():
        n = 1 if text == "teacher" else len(row)
        table += f"| {text} | {n} | {_spread(100 * row['accuracy'], n)} % | {row['ece'].mean():.3f} |\n"
    gains = [
        f"Distilled minus {text}, by seed: {_interval(100 * (rows['distilled'] - rows[text])['accuracy'].dropna())}"
        for text in ("scratch", "scratch, tuned")
        if text in rows
    ]
    return table + "\n" + "\n\n".join(gains)


def _spread(values: pd.Series, n: int) -> str:
    return f"{values.mean():.2f}" + (f" ± {values.std():.2f}" if n > 1 else "")


def _interval(gains: pd.Series) -> str:
    text = f"{gains.mean():+.2f} points (n = {len(gains)}"
    if len(gains) < 2:
        return f"{text})."
    low, high = stats.t.interval(0.95, len(gains) - 1, gains.mean(), stats.sem(gains))
    return f"{text}, 95 % t interval {low:+.2f} to {high:+.2f})."


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))

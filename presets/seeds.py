"""What several student seeds show: `python -m presets.seeds results/cats_vs_dogs` writes seeds.md and seeds.png there.

In the record, `seeds/N.json` is `metrics/evaluate.json` of the preset with `student.seed: N`, and
`seeds/N.scratch.json` the same of scratch alone, tuned for itself (by `seeds/tuning.scratch`).
"""

import json
import sys
from pathlib import Path

import pandas as pd
from scipy import stats

from distillation import figures
from distillation.evaluation import MODELS
from distillation.files import replacing


def main(record: Path) -> str:
    """Write the table and the figure; return the table."""
    rows = _rows(record)
    text = _table(rows)
    with replacing(record / "seeds.md") as temporary:
        temporary.write_text(f"{text}\n")
    with replacing(record / "seeds.png") as temporary:
        figures.save(figures.seeds({name: row["accuracy"] for name, row in rows.items()}), temporary)
    return text


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

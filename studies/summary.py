"""Summary of the runs of a record: `python -m studies.summary results/cats_vs_dogs`.

In the record, `runs/fold-F.seed-S.json` is a run of the preset on fold F of the data with student seed S, and
`runs/fold-F.seed-S.tuned.json` the same with scratch tuned for itself; each is written by
`python -m studies.summary --run FILE` after its run. The summary is `summary.json`, `summary.md` and `summary.png`.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from distillation import cpu
from distillation.files import read_json, replacing, write_json, write_text
from distillation.params import NO_FILE, read_yaml
from distillation.report.statistics import MODELS
from distillation.report.style import COLOURS, COLUMN, MARKERS, rows_of_accuracy, save, styled

TUNED = "student_scratch_tuned"
NAMES = MODELS | {TUNED: "scratch, tuned"}
METHOD = {
    "folds": "one-way random-effects analysis of variance over folds of the data, and seeds within them",
    "seeds": "t interval over the student seeds of one split",
}


def main() -> None:
    parser = argparse.ArgumentParser("python -m studies.summary", description=__doc__.partition(":")[0])
    parser.add_argument("record", type=Path, help="folder of the record, or with --run the file to write")
    parser.add_argument(
        "--run", action="store_true", help="write the results of the run in the workspace as a run of a record"
    )
    parser.add_argument(
        "--continues", action="store_true", help="only say, yes or no, whether the workspace's run joins it"
    )
    options = parser.parse_args()
    if options.continues:
        print("yes" if continues(options.record) else "no")
    elif options.run:
        write_run(options.record)
    else:
        print(write_summary(options.record))


def write_run(path: Path) -> None:
    """Write the metrics of the run in the workspace to `path`, with the CPU that it ran on."""
    evaluated = read_json("metrics/evaluate.json")
    models = {name: evaluated[name] for name in MODELS}
    for name in models:
        models[name] |= {"validation_accuracy": read_json(f"metrics/{name}.json")["validation_accuracy"]}
    test_images = sum(read_json("data/records/manifest.json")["counts"]["test"].values())
    run = {"cpu": cpu.name(), "int8": read_json("metrics/export.json")["int8"], "test_images": test_images}
    write_json(path, run | {"models": models})


def continues(record: Path) -> bool:
    """Whether the run in the workspace has the parameters, images and teacher's file that `record` was made with."""
    return _made_of(Path()) == _made_of(record)


def _made_of(folder: Path) -> list:
    params, lock = read_yaml(folder / "params.yaml"), read_yaml(folder / "dvc.lock")["stages"]
    own = {params["teacher"]["file"]} - {NO_FILE}
    files = [dep["md5"] for dep in lock["train_teacher"]["deps"] if dep["path"] in own]
    return [params, [out["md5"] for out in lock["prepare"]["outs"]], files]


def write_summary(record: Path) -> str:
    """Sum up the runs of a record; return the table as Markdown."""
    runs = read_runs(record)
    summary = summarise(runs)
    write_json(record / "summary.json", summary)
    text = table(summary)
    write_text(record / "summary.md", f"{text}\n")
    with replacing(record / "summary.png") as temporary:
        save(draw({NAMES[name]: runs[name].dropna() for name in NAMES if name in runs}), temporary)
    return text


def read_runs(record: Path) -> pd.DataFrame:
    """A row for each fold and seed: test and validation accuracies of each model, and the other values of a run."""
    rows: dict[tuple[int, int], dict] = {}
    for path in sorted((record / "runs").glob("*.json")):
        fold, seed, tuned = re.fullmatch(r"fold-(\d+)\.seed-(\d+)(\.tuned)?", path.stem).groups()
        run, row = read_json(path), rows.setdefault((int(fold), int(seed)), {})
        if tuned:  # it differs in scratch alone
            models = {TUNED: run["models"]["student_scratch"]}
        else:
            models = run["models"]
            row |= {"cpu": run["cpu"], "test_images": run["test_images"]}
            row |= {"int8": run["int8"]["accuracy"], "int8_bytes": run["int8"]["bytes"]}
        for name, scores in models.items():
            row |= {name: scores["accuracy"], f"{name}_validation": scores["validation_accuracy"]}
            row |= {f"{name}_{key}": scores[key] for key in ("parameters", "macs")}
    table = pd.DataFrame.from_dict(rows, orient="index").sort_index()
    table.index = pd.MultiIndex.from_tuples(table.index, names=["fold", "seed"])
    return table


def summarise(runs: pd.DataFrame) -> dict:
    """`summary.json`: accuracies (0..1) of each model, and the gain over the better of the two baselines.

    `prediction` of a model, and of the gain, is the 95 % interval for one more run, on another fold with another seed.
    """
    models = {}
    for name in NAMES:
        if name not in runs:
            continue
        values = runs[name].dropna()
        of_each = values.groupby("fold").first() if name == "teacher" else values  # student seeds share a teacher
        expected = intervals(of_each)["prediction"]
        models[name] = {
            "accuracy_mean": of_each.groupby("fold").mean().mean(),
            "accuracy_sd": of_each.std() if len(of_each) > 1 else None,
            "n": len(of_each),
            "validation_accuracy_mean": runs[f"{name}_validation"].dropna().mean(),
            "prediction": expected and np.clip(expected, 0, 1).tolist(),
            **{key: int(runs[f"{name}_{key}"].dropna().iloc[0]) for key in ("parameters", "macs")},
        }
    baselines = [name for name in ("student_scratch", TUNED) if name in models]
    over = max(baselines, key=lambda name: models[name]["accuracy_mean"])
    gains = {name: (runs["student_distilled"] - runs[name]).dropna() for name in baselines}
    return {
        "test_images": int(runs["test_images"].iloc[0]),
        "models": models,
        "gain": {"over": over, **gain(gains[over])},
        "gain_over_student_scratch": gain(gains["student_scratch"]),
        "int8": {"bytes": int(runs["int8_bytes"].max()), "accuracy_mean": runs["int8"].mean()},
        "cpu": sorted(set(runs["cpu"].dropna())),
    }


def gain(gains: pd.Series) -> dict:
    """Mean of the paired gains (-1..1), its 95 % interval, and the interval for one more run."""
    found, folds = intervals(gains), gains.index.get_level_values("fold").nunique()
    return {
        "mean": gains.groupby("fold").mean().mean(),
        "ci_low": found["mean"] and found["mean"][0],
        "ci_high": found["mean"] and found["mean"][1],
        "prediction": found["prediction"],
        "seeds": gains.index.get_level_values("seed").nunique(),
        "splits": folds,
        "method": METHOD["folds" if folds > 1 else "seeds"],
    }


def intervals(values: pd.Series) -> dict[str, list[float] | None]:
    """95 % intervals for the `mean`, and as `prediction` for one more run on one more fold; None where n is 1.

    Over several folds each with k seeds, by the analysis of variance (Searle, Casella and McCulloch, "Variance
    components", 1992, section 3.6): the variance of the folds' means is that of a fold plus 1/k of that of a seed. On
    one fold, seeds alone vary.

    Args:
        values: by fold and seed (or by fold alone).
    """
    folds = values.groupby("fold")
    means, sizes = folds.mean(), folds.size()
    within = float(((values - folds.transform("mean")) ** 2).sum() / max(1, (sizes - 1).sum()))  # variance of a seed
    if len(means) > 1:
        freedom, of_mean = len(means) - 1, means.var() / len(means)
        between = max(0.0, means.var() - within * (1 / sizes).mean())  # variance of a fold
    elif len(values) > 1:
        freedom, of_mean, between = len(values) - 1, within / len(values), 0.0
    else:
        return {"mean": None, "prediction": None}
    reach, centre = stats.t.ppf(0.975, freedom), means.mean()
    half = {"mean": reach * np.sqrt(of_mean), "prediction": reach * np.sqrt(of_mean + between + within)}
    return {name: [float(centre - width), float(centre + width)] for name, width in half.items()}


def table(summary: dict) -> str:
    """The models as a Markdown table, and the gains in words."""
    lines = [
        "| model | runs | test accuracy | one more run | validation | parameters | MACs |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in sorted(summary["models"].items(), key=lambda item: -item[1]["accuracy_mean"]):
        spread = f" ± {100 * row['accuracy_sd']:.2f}" if row["accuracy_sd"] is not None else ""
        accuracy = f"{100 * row['accuracy_mean']:.2f}{spread} %"
        validation, expected = f"{100 * row['validation_accuracy_mean']:.2f} %", _range(row["prediction"], " %")
        cost = f"{row['parameters']:,} | {row['macs'] / 1e6:,.1f} M"
        lines.append(f"| {NAMES[name]} | {row['n']} | {accuracy} | {expected} | {validation} | {cost} |")
    lines.append("")
    named = {summary["gain"]["over"]: summary["gain"], "student_scratch": summary["gain_over_student_scratch"]}
    for name, row in named.items():
        interval = _range(row["ci_low"] is not None and [row["ci_low"], row["ci_high"]])
        lines += [
            f"Distilled minus {NAMES[name]}: {100 * row['mean']:+.2f} points (95 % interval {interval}; "
            f"one more run {_range(row['prediction'])}; splits: {row['splits']}, student seeds: {row['seeds']}; "
            f"{row['method']}).",
            "",
        ]
    int8 = summary["int8"]
    lines.append(f"int8 file: {int8['bytes'] / 1000:,.1f} kB, {100 * int8['accuracy_mean']:.2f} %. CPU: ")
    lines[-1] += f"{', '.join(summary['cpu'])}. {summary['test_images']:,} test images a split."
    return "\n".join(lines)


def _range(interval: Sequence[float] | bool | None, unit: str = "") -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}{unit}" if interval else "unknown"


@styled
def draw(accuracies: dict[str, Sequence[float]]) -> Figure:
    """Test accuracy (0..1) of each model in each run, and its mean; the models by their names in figures."""
    accuracies = dict(sorted(accuracies.items(), key=lambda item: -np.mean(item[1])))
    figure = Figure((COLUMN, 0.6 + 0.36 * len(accuracies)))
    axes = figure.subplots()
    names = {text: name.removesuffix("_tuned") for name, text in NAMES.items()}
    for y, (text, values) in enumerate(accuracies.items()):
        name, percent = names[text], 100 * np.asarray(values)
        axes.plot(percent, np.full(len(percent), y), MARKERS[name], color=COLOURS[name], alpha=0.5, markeredgewidth=0)
        axes.plot(percent.mean(), y, "|", color=COLOURS[name], markersize=12)
        place = {"xytext": (0, 7), "ha": "center"}
        axes.annotate(f"{percent.mean():.1f}", (percent.mean(), y), textcoords="offset points", **place)
    axes.margins(x=0.1)
    rows_of_accuracy(axes, accuracies)
    return figure


if __name__ == "__main__":
    main()

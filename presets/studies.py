"""What a set of experiments shows: `dvc exp show --json | python -m presets.studies FOLDER`.

Of all experiments, those count that differ from `params.yaml` in nothing but what is studied: alpha and
temperature (`sweep.json`, `sweep.png`), the share of labels (`labels.json`, `labels.png`), how long the students train
(`epochs.json`, `epochs.png`), or what the teacher answers (`ablation.json`, with what `presets.naive_cache` left).
Accuracy is that on the validation split.
"""

import itertools
import json
import sys
from pathlib import Path

import yaml

from distillation import figures
from distillation.evaluation import MODELS
from distillation.files import read_json, replacing, write_json

STUDIES = {
    "sweep": (("distill.alpha", "distill.temperature"), figures.sweep),
    "labels": (("data.labeled_fraction",), figures.label_curve),
    "epochs": (("student.epochs",), figures.epoch_curve),
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
        rows = _rows(found, _leaves(base), studied)
        write_json(folder / f"{study}.json", rows)
        with replacing(folder / f"{study}.png") as temporary:
            figures.save(draw(rows), temporary)
    answered = ("views.count", "distill.feature_weight")
    ablation = [
        {"cache": "consistent"} | {key: row[key] for key in ("count", "feature_weight", "distilled")}
        for row in _rows(found, _leaves(base), answered)
    ]
    if (naive := folder / "naive_cache.json").exists():
        for row in read_json(naive):
            kept = {"feature_weight": row["feature_weight"], "distilled": row["validation_accuracy"]}
            ablation.append({"cache": "naive", "count": base["views"]["count"]} | kept)
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
                yield _leaves(data["params"]["params.yaml"]["data"]), accuracies


def _rows(found: list[tuple[dict, dict]], base: dict, studied: tuple[str, ...]) -> list[dict]:
    """By the values of what is studied, the accuracies; one row for each, in order."""
    rows = {}
    for params, accuracies in found:
        if all(value == params.get(name) for name, value in base.items() if name not in studied):
            values = tuple(params[name] for name in studied)
            named = {name.split(".")[1]: value for name, value in zip(studied, values, strict=True)}
            rows.setdefault(values, named | accuracies)
    return [rows[values] for values in sorted(rows)]


def _leaves(params: dict) -> dict:
    return {f"{section}.{leaf}": value for section, leaves in params.items() for leaf, value in leaves.items()}


if __name__ == "__main__":
    main(json.load(sys.stdin), yaml.safe_load(Path("params.yaml").read_text()), Path(sys.argv[1]))

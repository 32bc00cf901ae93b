"""What a set of experiments shows: `dvc exp show --json | python -m presets.studies FOLDER`.

Of all experiments, those count that differ from `params.yaml` in nothing but what is studied: alpha and
temperature (`sweep.json`, `sweep.png`), the share of labels (`labels.json`, `labels.png`), or how many views
the teacher has answered (`views.json`). Accuracy is that on the validation split.
"""

import json
import sys
from pathlib import Path

import yaml

from distillation import figures
from distillation.files import replacing, write_json

STUDIES = {
    "sweep": ("distill.alpha", "distill.temperature"),
    "labels": ("data.labeled_fraction",),
    "views": ("views.count",),
}
DRAWN = {"sweep": figures.sweep, "labels": figures.label_curve}


def main(shown: list[dict], base: dict, folder: Path) -> None:
    """Write the rows of each study and draw them.

    Args:
        shown: what `dvc exp show --json` prints.
        base: the content of params.yaml.
        folder: where the studies go.
    """
    found = list(_experiments(shown))
    for study, studied in STUDIES.items():
        rows = _rows(found, _leaves(base), studied)
        write_json(folder / f"{study}.json", rows)
        if study not in DRAWN:
            continue
        with replacing(folder / f"{study}.png") as temporary:
            figures.save(DRAWN[study](rows), temporary)


def _experiments(shown: list[dict]):
    """Parameters and accuracies of each experiment that has run, and of the workspace."""
    for revision in shown:
        for experiment in [revision, *(e for group in revision.get("experiments") or [] for e in group["revs"])]:
            data = experiment.get("data")
            if data:
                metrics = {Path(path).stem: row.get("data") or {} for path, row in data["metrics"].items()}
                accuracies = {
                    text: metrics.get(model, {}).get("validation_accuracy") for model, text in figures.MODELS.items()
                }
                yield _leaves(data["params"]["params.yaml"]["data"]), accuracies


def _rows(found: list[tuple[dict, dict]], base: dict, studied: tuple[str, ...]) -> list[dict]:
    """By the values of what is studied, the accuracies; one row for each, in order."""
    rows = {}
    for params, accuracies in found:
        if all(value == params.get(name) for name, value in base.items() if name not in studied):
            values = tuple(params[name] for name in studied)
            rows[values] = {name.split(".")[1]: value for name, value in zip(studied, values, strict=True)} | accuracies
    return [rows[values] for values in sorted(rows)]


def _leaves(params: dict) -> dict:
    return {f"{section}.{leaf}": value for section, leaves in params.items() for leaf, value in leaves.items()}


if __name__ == "__main__":
    main(json.load(sys.stdin), yaml.safe_load(Path("params.yaml").read_text()), Path(sys.argv[1]))

"""Train a ladder of students of one teacher, measure all, and write `results/NAME_front` (`studies/front.sh`).

Every student of `front.yaml`, and the preset's own, is distilled from the same cache, and trained from scratch in as
many steps; each is an experiment of DVC's. Its references are pretrained networks, trained on the same images. All are
measured together. `studies/front.py` then names the best student for a budget.
"""

import argparse
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import stages  # noqa: F401  imports TensorFlow, and keeps its greeting from the terminal

# isort: split
from benchmarks._timing import interleaved
from benchmarks.latency import one_image, peak_alone
from distillation import cpu
from distillation.errors import InputError, reason
from distillation.files import read_json, replacing, write_json, write_text
from distillation.inference.compact import compact
from distillation.inference.forward import to_litert
from distillation.inference.published import FILE
from distillation.networks.network import load_network, select
from distillation.params import NO_FILE, Params, read_yaml, validated
from distillation.preset import complete, write_params
from distillation.report.statistics import wilson
from distillation.report.style import save
from studies import front
from studies.references import train_reference

LADDER = Path(__file__).with_name("front.yaml")
# The stages that a student, or a reference, is made by, and what all students, or references, are made from.
OF_STUDENTS = (
    ("train_scratch", "distill", "evaluate", "export"),
    ("data/records", "models/teacher", "data/teacher_answers"),
)
OF_REFERENCES = (("train_teacher", "export"), ("data/records",))


def main() -> None:
    parser = argparse.ArgumentParser("python -m studies.ladder", description=__doc__.partition(":")[0])
    parser.add_argument("preset", help="which stands in params.yaml, with teacher and cache (studies/front.sh)")
    parser.add_argument("--ladder", type=Path, default=LADDER, help="the table of students (default: %(default)s)")
    parser.add_argument("--share", type=float, help="of the preset's budget.shown (default: the table's)")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="each student is trained with each (default: 0)"
    )
    options = parser.parse_args()
    try:
        preset = complete(options.preset)
        wanted = students(preset, options.ladder, options.share)
        compared = references(preset, options.ladder)
        print(run(wanted, compared, options.seeds, front.finished(options.preset), front.record(options.preset)))
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; run it again to go on")


def students(preset: Params, ladder: Path, share: float | None = None) -> dict[str, Params]:
    """The parameters of each student by name: those of `preset` but for what the table says.

    Args:
        preset: whose own student is `OWN`.
        ladder: a YAML file: `students`, by name their settings of `student`, and `share`, of `budget.shown`.
        share: in place of the table's.

    Raises:
        InputError: where the table is none, or asks for what no student can be.
    """
    content = _table(ladder)
    share = content["share"] if share is None else share
    if not 0 < share < math.inf:
        raise InputError(f"share = {share:g}, should be a number above 0")
    found = {}
    for name, changes in {front.OWN: {}, **content["students"]}.items():
        values = preset.model_dump()
        values["budget"]["shown"] = round(share * preset.budget.shown)
        values["student"] |= changes
        found[name] = validated(values, f"{ladder}, {name}")
    return found


def references(preset: Params, ladder: Path) -> dict[str, Params]:
    """The parameters of each reference by name: `preset` with the `teacher` that the table's `references` ask for.

    Raises `InputError` where the table is none, or asks for what no teacher can be.
    """
    found = {}
    for name, changes in _table(ladder)["references"].items():
        values = preset.model_dump()
        values["teacher"] |= {"file": NO_FILE, **changes}
        found[name] = validated(values, f"{ladder}, {name}")
    return found


def _table(ladder: Path) -> dict:
    """`share`, `students` and `references` of a ladder's file; without references, none are compared."""
    content = read_yaml(ladder)
    try:
        table: dict = {"share": float(content["share"]), "students": content["students"]}
        table["references"] = content.get("references", {})
        for key in ("students", "references"):
            table[key] = {name: dict(settings or {}) for name, settings in table[key].items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        problem = f"{ladder} should hold `share`, a number, and `students`, settings by name; it may hold `references`"
        raise InputError(problem) from None
    for name in (*table["students"], *table["references"]):
        if not re.fullmatch(r"\w+([.-]\w+)*", str(name), re.ASCII):
            raise InputError(f"{ladder}, {name}: should be a name of letters, digits, _, - and . (such as small-30kB)")
    return table


def run(
    wanted: dict[str, Params], compared: dict[str, Params], seeds: Sequence[int], finished: Path, record: Path
) -> str:
    """Train what is not finished of `wanted` and `compared`, measure all, write the record; return its table.

    Args:
        wanted: parameters of the students by name.
        compared: parameters of the references by name.
        seeds: each student is trained with each of them.
        finished: the folder in which finished students are kept.
        record: the folder to write.
    """
    keys = {f"{name}.seed-{seed}": (name, _seeded(each, seed)) for seed in seeds for name, each in wanted.items()}
    shared = _shared(*OF_STUDENTS)
    for number, (key, (_, params)) in enumerate(keys.items(), start=1):
        made_of = _digest([params.model_dump_json(), shared])
        if not _is_made_of(finished / key, made_of):
            print(f"student {number} of {len(keys)}: {key}", file=sys.stderr, flush=True)
            train(f"{record.name}-{key}", params, finished / key, made_of)
    trained, shared = [], _shared(*OF_REFERENCES)
    for number, (name, params) in enumerate(compared.items(), start=1):
        of_it = params.model_dump(include={"teacher": True, "views": True, "budget": {"teacher"}})
        made_of = _digest([of_it, shared])
        if not _is_made_of(finished / name, made_of):
            print(f"reference {number} of {len(compared)}: {name}", file=sys.stderr, flush=True)
            try:
                train_reference(params, finished / name, made_of)
            except InputError as error:  # the students stand without it
                print(f"{name} is left out: {error}", file=sys.stderr, flush=True)
                continue
        trained.append(name)
    runs = [{"name": name, "key": key, **read_json(finished / key / "run.json")} for key, (name, _) in keys.items()]
    others = [{"name": name, **read_json(finished / name / "run.json")} for name in trained]
    found = summarise(runs, others, measure([finished / name for name in (*keys, *trained)]))
    write_json(record / "front.json", found)
    with replacing(record / "front.png") as temporary:
        save(front.draw(found), temporary)
    text = front.table(found)
    write_text(record / "front.md", f"{text}\n")
    return text


def train(experiment: str, params: Params, folder: Path, made_of: str) -> None:
    """Run the pipeline with `params`, save it as an `experiment` of DVC's, and keep in `folder` what it gave.

    Not by `dvc exp run`, which leaves git on a detached head when it is killed; after `dvc repro` nothing is lost.
    """
    write_params(params, Path("params.yaml"))
    _run("dvc", "repro")
    _run("dvc", "exp", "save", "--quiet", "--force", "--name", experiment)
    evaluated, exported = read_json("metrics/evaluate.json"), read_json("metrics/export.json")
    counts = read_json("data/records/manifest.json")["counts"]
    result = {
        "made_of": made_of,
        "params": params.model_dump(),
        "images": {split: sum(counts[split].values()) for split in ("validation", "test")},
        "files": {variant: exported[variant] for variant in front.VARIANTS},
    }
    for model in ("teacher", "student_scratch", "student_distilled"):
        result[model] = read_json(f"metrics/{model}.json") | evaluated[model]
    with replacing(folder) as temporary:
        shutil.copytree("models/export", temporary / "export")
        write_json(temporary / "run.json", result)


def measure(folders: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Milliseconds for an image on one thread, peak memory (MiB) of a process that answers one, and bytes.

    Of the files of each student and reference, by `KEY VARIANT`, and, where LiteRT can take it, of the `teacher` in
    float32. All take turns, so that a machine that slows down does so for all.
    """
    with tempfile.TemporaryDirectory() as directory:
        files = {"teacher": Path("models/teacher", FILE)}
        if not files["teacher"].exists():  # it is a Keras network
            files["teacher"] = Path(directory, FILE)
            try:
                files["teacher"].write_bytes(compact(to_litert(select(load_network("models/teacher"), "logits"))))
            except Exception as error:  # the converter raises half a dozen kinds
                print(f"the teacher's latency is left out: LiteRT can't take it ({reason(error)})", file=sys.stderr)
                del files["teacher"]
        for folder in folders:
            for variant in front.VARIANTS:
                files[f"{folder.name} {variant}"] = folder / f"export/student_{variant}.tflite"
        seconds = interleaved(*map(one_image, files.values()), rounds=15, calls=10, untimed=1) / 10
        return {
            name: {
                "milliseconds": float(1e3 * np.median(seconds[:, column])),
                "peak_mib": peak_alone(file),
                "bytes": file.stat().st_size,
            }
            for column, (name, file) in enumerate(files.items())
        }


def summarise(runs: list[dict], others: list[dict], measured: dict[str, dict[str, float]]) -> dict:
    """`front.json`: a point for each student and variant, with means over its seeds, references and teacher (0..1).

    Args:
        runs: what `train` kept of each student, with its `name` and `key`.
        others: what `train_reference` kept of each reference, with its `name`.
        measured: what `measure` found.
    """
    images, points = runs[0]["images"], []
    for name in dict.fromkeys(row["name"] for row in runs):
        seeds = [row for row in runs if row["name"] == name]
        params = seeds[0]["params"]
        for variant in front.VARIANTS:
            files = [row["files"][variant] for row in seeds]
            accuracies = [file["accuracy"] for file in files]
            validated = [file["validation_accuracy"] for file in files]
            costs = [measured[f"{row['key']} {variant}"] for row in seeds]
            low, high = wilson(float(np.mean(accuracies)), images["test"])
            best = seeds[int(np.argmax(validated))]
            point = {
                "name": name,
                "network": params["student"]["network"],
                "variant": variant,
                "student": params["student"],
                "parameters": seeds[0]["student_distilled"]["parameters"],
                "macs": seeds[0]["student_distilled"]["macs"],
                "bytes": max(cost["bytes"] for cost in costs),
                "milliseconds": float(np.median([cost["milliseconds"] for cost in costs])),
                "peak_mib": max(cost["peak_mib"] for cost in costs),
                "accuracy_mean": float(np.mean(accuracies)),
                "accuracy_sd": float(np.std(accuracies, ddof=1)) if len(seeds) > 1 else None,
                "accuracy_ci_low": low,
                "accuracy_ci_high": high,
                "n": len(seeds),
                "accuracies": accuracies,
                "validation_accuracy_mean": float(np.mean(validated)),
                "best_seed": best["key"],
                "made_of": best["made_of"],
                "train_accuracy_mean": float(np.mean([row["student_distilled"]["train_accuracy"] for row in seeds])),
                "scratch_accuracy_mean": float(np.mean([row["student_scratch"]["accuracy"] for row in seeds])),
            }
            points.append(point)
    on_front = [front.pareto(points, cost) for cost in front.COSTS]
    for number, point in enumerate(points):
        point["on_front"] = any(number in numbers for numbers in on_front)
    compared = []
    for row in others:
        for variant in front.VARIANTS:
            file = row["files"][variant]
            reference = {
                "name": row["name"],
                "variant": variant,
                "teacher": row["params"]["teacher"],
                "fine_tuned": row.get("fine_tuned", False),
                "parameters": row["parameters"],
                "macs": row["macs"],
                "accuracy": file["accuracy"],
                "validation_accuracy": file["validation_accuracy"],
                **measured[f"{row['name']} {variant}"],
            }
            compared.append(reference | {"dominates": front.dominated(points, reference)})
    return {
        "points": points,
        "references": compared,
        "teacher": runs[0]["teacher"] | measured.get("teacher", {}),
        "images": images,
        "shown": runs[0]["params"]["budget"]["shown"],
        "cpu": cpu.name(),
    }


def _seeded(params: Params, seed: int) -> Params:
    return params.model_copy(update={"student": params.student.model_copy(update={"seed": seed})})


def _shared(makers: Sequence[str], paths: Sequence[str]) -> list:
    """What all students, or references, have in common: `paths` by DVC's hashes, the code of `makers` by its own."""
    lock = read_yaml("dvc.lock")["stages"]
    outs = {out["path"]: out["md5"] for stage in lock.values() for out in stage.get("outs", ())}
    declared = read_yaml("dvc.yaml")["stages"]
    deps = {dep for stage in makers for dep in declared[stage]["deps"] if dep.startswith(("stages/", "distillation/"))}
    files = sorted({file for dep in deps for file in (Path(dep), *Path(dep).rglob("*.py")) if file.is_file()})
    return [[outs[path] for path in paths], [[str(file), _digest(file.read_text(encoding="utf-8"))] for file in files]]


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _is_made_of(folder: Path, made_of: str) -> bool:
    return (folder / "run.json").exists() and read_json(folder / "run.json")["made_of"] == made_of


def _run(*command: str) -> None:
    if subprocess.run(command, check=False).returncode:
        raise InputError(f"`{' '.join(command)}` failed: see above")


if __name__ == "__main__":
    main()

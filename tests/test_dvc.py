"""The commands that users type, in a temporary clone of this repository as it stands."""

import csv
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from clone import FROM_DISTILL, STAGES, Clone
from scipy.special import softmax
from scipy.stats import mannwhitneyu

from distillation.report.statistics import MODELS

pytestmark = pytest.mark.slow


def test_repro_runs_every_stage_and_writes_all_metrics(clone: Clone) -> None:
    assert clone.ran(clone.first) == set(STAGES)
    manifest = json.loads((clone.path / "data/records/manifest.json").read_text())
    assert manifest["duplicates_dropped"] == 1
    assert sum(sum(split.values()) for split in manifest["counts"].values()) == 81
    metrics = clone.metrics()
    scores = {
        "accuracy",
        "accuracy_ci_low",
        "accuracy_ci_high",
        "balanced_accuracy",
        "nll",
        "ece",
        "roc_auc",
        "parameters",
        "macs",
    }
    assert set(metrics["teacher"]) >= scores
    assert set(metrics["student_scratch"]) == set(metrics["student_distilled"])
    assert set(metrics["student_scratch"]) >= scores | {"agreement_with_teacher"}
    for difference in ("distilled_minus_scratch", "teacher_minus_scratch"):
        assert set(metrics[difference]) == {"accuracy", "ci_low", "ci_high", "p_value"}
    assert set(metrics["compression"]) == {"parameters", "macs"}
    export = json.loads((clone.path / "metrics/export.json").read_text())
    assert set(export) == {"float32", "float16", "int8"}
    assert export["float32"]["max_abs_probability_error"] <= 1e-4


def test_metrics_and_plots_are_what_the_predictions_say(clone: Clone) -> None:
    table = pd.read_parquet(clone.path / "data/predictions.parquet")
    classes = json.loads((clone.path / "data/records/manifest.json").read_text())["classes"]
    metrics = clone.metrics()
    right = {model: table[model] == table["label"] for model in MODELS}
    for model in MODELS:
        assert metrics[model]["accuracy"] == pytest.approx(right[model].mean(), abs=1e-6)
        plots = {
            kind: json.loads((clone.path / f"plots/{kind}/{model}.json").read_text()) for kind in ("confusion", "roc")
        }
        pairs = [(row["actual"], row["predicted"]) for row in plots["confusion"]]
        assert pairs == list(zip(table["label"], table[model], strict=True))
        # The area under the ROC is the chance that a positive ranks above a negative (Mann and Whitney, 1947).
        scores = softmax(np.stack(table[f"{model}_logits"]).astype(np.float64), axis=1)
        positive = np.array(classes) == table["label"].to_numpy()[:, None]
        ranked = mannwhitneyu(scores[positive], scores[~positive]).statistic / positive.sum() / (~positive).sum()
        false, true = ([row[f"{kind}_positive_rate"] for row in plots["roc"]] for kind in ("false", "true"))
        assert np.trapezoid(true, false) == pytest.approx(ranked, abs=1e-5)
    for student in ("student_scratch", "student_distilled"):
        agreement = (table[student] == table["teacher"]).mean()
        assert metrics[student]["agreement_with_teacher"] == pytest.approx(agreement, abs=1e-6)
    gain = right["student_distilled"].mean() - right["student_scratch"].mean()
    assert gain != 0  # else this would not see the students exchanged
    assert metrics["distilled_minus_scratch"]["accuracy"] == pytest.approx(gain, abs=1e-6)
    for key, ratio in metrics["compression"].items():
        assert ratio * metrics["student_distilled"][key] == pytest.approx(metrics["teacher"][key], rel=1e-5)


def test_repro_again_runs_nothing(clone: Clone) -> None:
    assert clone.ran(clone.run("dvc", "repro")) == set()


def test_looking_at_a_folder_on_macos_reruns_nothing(clone: Clone) -> None:
    left = [
        clone.path / folder / ".DS_Store" for folder in ("photos", "data/records", "models/export", "plots/figures")
    ]
    for file in left:
        file.touch()
    assert clone.ran(clone.run("dvc", "repro")) == set()
    assert clone.run("git", "status", "--porcelain").stdout == ""
    for file in left:
        file.unlink()


def test_experiment_runs_what_depends_on_it_and_nothing_else(clone: Clone, tmp_path: Path) -> None:
    before = clone.metrics()
    done = clone.run("dvc", "exp", "run", "-n", "hard", "-S", "distill.alpha=1", "-S", "distill.temperature=1e-05")
    assert clone.ran(done) == FROM_DISTILL
    after = clone.metrics()
    assert after["teacher"] == before["teacher"]
    # alpha = 1 is training from scratch, whatever the teacher says.
    assert {k: after["student_distilled"][k] for k in ("accuracy", "nll")} == {
        k: before["student_scratch"][k] for k in ("accuracy", "nll")
    }
    shown = clone.run(
        "dvc",
        "exp",
        "show",
        "--csv",
        "--drop",
        ".*",
        "--keep",
        "Experiment|distill.alpha|student_distilled.accuracy$",
    )
    header, *rows = csv.reader(shown.stdout.splitlines())
    assert header == ["Experiment", "student_distilled.accuracy", "distill.alpha"]
    assert ["hard", str(after["student_distilled"]["accuracy"]), "1"] in rows
    clone.run("git", "restore", ".")
    clone.run("dvc", "checkout", "-q")
    assert_branches_are_compared_without_cache(clone, tmp_path)


def assert_branches_are_compared_without_cache(clone: Clone, tmp_path: Path) -> None:
    """In a fresh clone, of a branch of the experiment above and `main`."""
    clone.run("dvc", "exp", "branch", "hard", "harder")
    fresh = Clone(tmp_path / "fresh")
    clone.run("git", "clone", "-q", ".", str(fresh.path))
    branches = ("origin/main", "origin/harder")
    diff = json.loads(fresh.run("dvc", "metrics", "diff", *branches, "--json").stdout)
    assert "metrics/evaluate.json" in diff
    assert not any(key.startswith("teacher.") for key in diff["metrics/evaluate.json"])
    params = json.loads(fresh.run("dvc", "params", "diff", *branches, "--json").stdout)
    assert params["params.yaml"]["distill.alpha"]["new"] == 1
    plots = json.loads(fresh.run("dvc", "plots", "diff", *branches, "--json").stdout)
    assert "Accuracy while training" in plots.get("data", plots)


def metrics_by_alpha(clone: Clone) -> dict[float, dict]:
    """All metrics of every experiment."""
    shown = json.loads(clone.run("dvc", "exp", "show", "--json").stdout)
    data = [experiment["revs"][0]["data"] for revision in shown for experiment in revision["experiments"] or []]
    return {row["params"]["params.yaml"]["data"]["distill"]["alpha"]: row["metrics"] for row in data}


def forget_experiments(clone: Clone) -> None:
    """Also their entries in the run cache, so that equal experiments are computed again."""
    clone.run("dvc", "exp", "remove", "--all-commits", check=False)
    clone.run("dvc", "queue", "remove", "--all", check=False)
    shutil.rmtree(clone.path / ".dvc/cache/runs", ignore_errors=True)  # absent after stages that it leaves out


def work_off_the_queue(clone: Clone, jobs: int, seconds: float = 900) -> int:
    """Run the queue; return the largest number of experiments seen running at a time."""
    at_a_time = 0
    deadline = time.monotonic() + seconds
    clone.run("bash", "-c", f"dvc queue start --jobs {jobs} >/dev/null 2>&1")  # workers would hold a pipe open
    while "Queued" in (status := clone.run("dvc", "queue", "status").stdout) or "Running" in status:
        assert time.monotonic() < deadline, status  # a worker that died leaves its experiment so forever
        at_a_time = max(at_a_time, status.count("Running"))
        time.sleep(3)  # each look takes a part of the processor's time
    assert status.count("Success") == 2, status
    return at_a_time


def test_grid_gives_the_same_metrics_one_by_one_and_at_a_time(clone: Clone) -> None:
    forget_experiments(clone)
    for alpha in (0.2, 0.6):
        clone.run("dvc", "exp", "run", "--temp", "-S", f"distill.alpha={alpha}", "distill")
    one_by_one = metrics_by_alpha(clone)
    assert set(one_by_one) == {0.2, 0.6}
    assert one_by_one[0.2] != one_by_one[0.6]
    forget_experiments(clone)
    clone.run("dvc", "exp", "run", "--queue", "-S", "distill.alpha=0.2,0.6", "distill")
    assert work_off_the_queue(clone, jobs=2) == 2
    assert metrics_by_alpha(clone) == one_by_one
    clone.run("bash", "-c", "dvc exp show --json | python -m studies.sweeps found")
    rows = json.loads((clone.path / "found/sweep.json").read_text())
    shutil.rmtree(clone.path / "found")
    assert [row["alpha"] for row in rows] == [0.1, 0.2, 0.6]
    for row in rows[1:]:
        final = one_by_one[row["alpha"]]["metrics/student_distilled.json"]["data"]
        assert row["distilled"] == final["validation_accuracy"]


def test_naive_cache_distils_elsewhere(clone: Clone) -> None:
    before = outs(clone)
    clone.run("python", "-m", "studies.naive_cache", "naive.json")
    naive = json.loads((clone.path / "naive.json").read_text())
    assert [row["features"] for row in naive] == [0, 5]
    assert all(0 <= row["validation_accuracy"] <= 1 for row in naive)
    assert outs(clone) == before
    (clone.path / "naive.json").unlink()


def test_fresh_clone_answers_without_data(clone: Clone, tmp_path: Path) -> None:
    fresh = Clone(tmp_path / "fresh")
    clone.run("git", "clone", "-qb", "main", ".", str(fresh.path))
    assert fresh.ran(fresh.run("dvc", "repro", "--dry", "--allow-missing")) == set()
    shown = json.loads(fresh.run("dvc", "metrics", "show", "--json").stdout)[""]["data"]
    assert {path: row["data"] for path, row in shown.items()} == {
        f"metrics/{path.name}": json.loads(path.read_text()) for path in (clone.path / "metrics").glob("*.json")
    }
    edges = set(re.findall('"(.+)" -> "(.+)"', fresh.run("dvc", "dag", "--dot").stdout))
    assert {name for edge in edges for name in edge} == {*STAGES, "photos.dvc"}
    assert {("distill", "evaluate"), ("distill", "export"), ("train_scratch", "evaluate")} <= edges
    assert json.loads(fresh.run("dvc", "params", "diff", "--json").stdout) == {}
    fresh.set_params(distill={"alpha": 0.3})
    diff = json.loads(fresh.run("dvc", "params", "diff", "--json").stdout)
    assert list(diff["params.yaml"]) == ["distill.alpha"]
    assert (diff["params.yaml"]["distill.alpha"]["old"], diff["params.yaml"]["distill.alpha"]["new"]) == (0.1, 0.3)


def test_charts_hold_the_rows_of_the_files(clone: Clone) -> None:
    charts = json.loads(clone.run("dvc", "plots", "show", "--json").stdout)["data"]
    drawn = {name: chart["content"]["data"]["values"] for name, (chart,) in charts.items()}
    for model in ("teacher", "student_scratch", "student_distilled"):
        rows = {
            kind: json.loads((clone.path / f"plots/{kind}/{model}.json").read_text())
            for kind in ("history", "reliability", "roc", "confusion")
        }
        for chart, measure in (("Accuracy", "accuracy"), ("Cross-entropy", "loss")):
            for curve in (f"train_{measure}", f"validation_{measure}"):
                line = [
                    (row["images"], row["dvc_inferred_y_value"])
                    for row in drawn[f"{chart} while training"]
                    if (row["filename"], row["field"]) == (f"{model}.json", curve)
                ]
                assert line == [(row["images"], row[curve]) for row in rows["history"]]
        if model == "student_distilled":
            for term in ("objective_hard", "objective_soft", "objective_features"):
                terms = drawn["Weighted terms of the objective"]
                area = [(row["images"], row["dvc_inferred_y_value"]) for row in terms if row["field"] == term]
                assert area == [(row["images"], row[term]) for row in rows["history"]]
        for chart in ("Reliability", "ROC"):
            shown = [row for row in drawn[chart] if row["filename"] == f"{model}.json"]
            of_file = rows[chart.lower()]
            assert [{key: row[key] for key in of_file[0]} for row in shown] == of_file
        assert drawn[f"plots/confusion/{model}.json"] == [row | {"rev": "workspace"} for row in rows["confusion"]]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"student": {"learning_rate": 1e5}}, "a lower student.learning_rate may help"),
        ({"distill": {"alpha": 1.5}}, "distill.alpha = 1.5"),
        ({"distill": {"temprature": 2}}, "distill.temprature is not a parameter"),
        ({"data": {"name": "no_such_data_set"}}, "no_such_data_set"),
        ({"teacher": {"weights": "missing.h5"}}, "missing.h5"),
    ],
)
def test_bad_parameters_give_one_line_and_lose_nothing(clone: Clone, change: dict, named: str) -> None:
    before = outs(clone)
    clone.set_params(**change)
    done = clone.run("dvc", "repro", check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0
    assert len(errors) == 1
    assert named in errors[0]
    assert "Traceback" not in done.stderr
    assert_nothing_is_lost(clone, before, done)


@pytest.mark.parametrize(
    ("content", "named"),
    [(b"", "data.folder"), (b"data: [", "params.yaml"), (b"data: \xff", "params.yaml"), (None, "data.folder")],
    ids=["empty", "not YAML", "not UTF-8", "missing"],
)
def test_params_file_that_dvc_cannot_read_is_named(clone: Clone, content: bytes | None, named: str) -> None:
    before = outs(clone)
    (clone.path / "params.yaml").unlink()
    if content is not None:
        (clone.path / "params.yaml").write_bytes(content)
    done = clone.run("dvc", "repro", check=False)
    assert done.returncode != 0
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert outs(clone) == before
    clone.run("git", "restore", "params.yaml")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (
            lambda photos: [shutil.rmtree(photos / name) for name in ("gråt", "light")],
            "holds 1 class folders; it should hold at least two",
        ),
        (lambda photos: (photos / "dark/07.png").write_bytes(b"\x89PNG"), "dark/07.png: not an image"),
    ],
    ids=["missing class", "broken image"],
)
def test_damaged_folder_gives_one_line_and_loses_nothing(clone: Clone, damage: Callable, named: str) -> None:
    before = outs(clone)
    damage(clone.path / "photos")
    done = clone.run("dvc", "repro", check=False)
    assert done.returncode != 0
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert_nothing_is_lost(clone, before, done)


@pytest.mark.parametrize(
    ("hinder", "named"),
    [("ulimit -f 1", "File too large"), ("rm -rf .checkpoints && touch .checkpoints", ".checkpoints")],
    ids=["full disk", "file in the place of a folder"],
)
def test_what_cannot_be_written_gives_one_line_and_loses_nothing(clone: Clone, hinder: str, named: str) -> None:
    before = outs(clone)
    done = clone.run("bash", "-c", f"{hinder}; python -m stages.train_scratch", check=False)
    assert done.returncode == 1
    assert re.fullmatch(f"error: .*{re.escape(named)}.*", done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr
    assert outs(clone) == before
    assert not list(clone.path.rglob(".partial-*"))
    clone.run("rm", "-rf", ".checkpoints")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_may_not_be_written_gives_one_line(clone: Clone) -> None:
    before = outs(clone)
    (clone.path / "data").chmod(0o555)
    done = clone.run("python", "-m", "stages.prepare", check=False)
    (clone.path / "data").chmod(0o755)
    assert done.returncode == 1
    assert re.fullmatch("error: .*Permission denied.*data.*\n", done.stderr)
    assert outs(clone) == before


def outs(clone: Clone) -> dict[str, dict[Path, bytes]]:
    """The files that each stage has written."""
    stages = yaml.safe_load((clone.path / "dvc.lock").read_text())["stages"]
    written = {stage: [clone.path / out["path"] for out in content["outs"]] for stage, content in stages.items()}
    return {
        stage: {file: file.read_bytes() for path in paths for file in [path, *path.rglob("*")] if file.is_file()}
        for stage, paths in written.items()
    }


def assert_nothing_is_lost(clone: Clone, before: dict, done: subprocess.CompletedProcess) -> None:
    """After a failed `dvc repro`, nothing is half-written, and two commands bring back what was there `before`."""
    (failed,) = re.findall("failed to reproduce '(.+)'", done.stderr)
    after = outs(clone)
    assert {stage for stage in STAGES if after[stage] != before[stage]} <= {failed}
    assert not list(clone.path.rglob(".partial-*"))
    clone.run("git", "restore", ".")
    clone.run("dvc", "checkout", "-q")
    assert outs(clone) == before
    assert clone.run("git", "status", "--porcelain").stdout == ""


def test_another_clone_gets_everything_from_a_remote_and_runs_nothing(clone: Clone, tmp_path: Path) -> None:
    """The commands of docs/reproducibility.md for `dvc push` and `dvc pull`, with a folder as the remote."""
    clone.run("dvc", "remote", "add", "--local", "-d", "storage", str(tmp_path / "remote"))
    clone.run("dvc", "push", "-q")
    other = Clone(tmp_path / "other")
    clone.run("git", "clone", "-q", str(clone.path), str(other.path))
    other.run("dvc", "remote", "add", "-d", "storage", str(tmp_path / "remote"))
    other.run("dvc", "pull", "-q")
    assert other.ran(other.run("dvc", "repro")) == set()
    for path in ("models/export/student_int8.tflite", "data/predictions.parquet", "plots/report.html"):
        assert (other.path / path).read_bytes() == (clone.path / path).read_bytes()


def test_published_student_is_found_by_name_and_brought_into_another_repository(clone: Clone, tmp_path: Path) -> None:
    """DVC finds an artifact by the Git tag of its version, and gets the folder that `dvc.yaml` names without one."""
    source = Clone(tmp_path / "source")
    clone.run("git", "clone", "-q", str(clone.path), str(source.path))
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")  # of an annotated tag, which alone DVC looks at
    source.run("git", *who, "tag", "-a", "-m", "First", "cats-vs-dogs-student@v1.0.0")
    other = Clone(tmp_path / "other")
    other.path.mkdir()
    other.run("git", "init", "-q")
    other.run("dvc", "init", "-q")
    show = f"import dvc.api; print(dvc.api.artifacts_show('cats-vs-dogs-student', repo={str(source.path)!r})['path'])"
    path = other.run("python", "-c", show).stdout.strip()
    assert path == yaml.safe_load((clone.path / "dvc.yaml").read_text())["artifacts"]["cats-vs-dogs-student"]["path"]
    for command in ("get", "import"):
        other.run("dvc", command, "-q", str(source.path), path, "-o", command)
        for file in ("student_int8.tflite", "classes.txt", "README.md"):
            assert (other.path / command / file).read_bytes() == (source.path / path / file).read_bytes()

"""The commands that users type, in a temporary clone of this repository as it stands."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
TINY = {
    "data": {
        "name": "folder",
        "folder": "photos",
        "max_images": None,
        "image_size": 48,
        "validation_fraction": 0.2,
        "test_fraction": 0.2,
    },
    "views": {"count": 2},
    "teacher": {"weights": None, "width": 0.35, "image_size": 32, "epochs": 1, "batch_size": 16},
    "student": {"image_size": 32, "channels": [4, 8], "epochs": 2, "batch_size": 16},
    "distill": {"feature_channels": 4},
}
STAGES = [
    "prepare",
    "train_teacher",
    "train_scratch",
    "cache_teacher_logits",
    "distill",
    "evaluate",
    "export",
    "report",
]
AFTER_DISTILL = {"distill", "evaluate", "export", "report"}


class Clone:
    """A repository in which commands run with this environment's programs."""

    def __init__(self, path: Path):
        self.path = path

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess:
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(command, cwd=self.path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 or not check, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def set_params(self, **sections: dict) -> None:
        path = self.path / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for section, values in sections.items():
            params[section].update(values)
        path.write_text(yaml.safe_dump(params))

    def metrics(self) -> dict:
        return json.loads((self.path / "metrics/evaluate.json").read_text())

    def ran(self, done: subprocess.CompletedProcess) -> set[str]:
        """Names of the stages that a DVC command ran."""
        return {stage for stage in STAGES if f"Running stage '{stage}'" in done.stdout + done.stderr}


def draw_folder(folder: Path) -> None:
    """Two classes of noise, 40 images each, that differ in brightness; one image stands there twice."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (folder / name).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(0, 200, (48, 48, 3)) + 55 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number:02}.png")
    shutil.copy(folder / "dark/00.png", folder / "dark/copy.png")


def copy_of_the_working_tree(clone: Clone) -> None:
    """Make `clone` a repository of what git would commit here now."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (clone.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone.path / name)
    clone.run("git", "init", "-qb", "main")
    clone.run("git", "config", "user.name", "t")
    clone.run("git", "config", "user.email", "t@example.org")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = Clone(tmp_path_factory.mktemp("clone") / "repository")
    copy_of_the_working_tree(clone)
    clone.set_params(**TINY)
    draw_folder(clone.path / "photos")
    clone.run("dvc", "add", "photos")
    clone.first = clone.run("dvc", "repro")
    clone.commit("tiny")
    return clone


pytestmark = pytest.mark.slow


def test_repro_runs_every_stage_and_writes_what_design_names(clone: Clone) -> None:
    assert clone.ran(clone.first) == set(STAGES)
    manifest = json.loads((clone.path / "data/records/manifest.json").read_text())
    assert manifest["duplicates_dropped"] == 1
    assert sum(sum(split.values()) for split in manifest["counts"].values()) == 80
    metrics = clone.metrics()
    scores = {"accuracy", "accuracy_ci_low", "accuracy_ci_high", "nll", "ece", "roc_auc", "parameters", "macs"}
    assert set(metrics["teacher"]) == scores
    assert set(metrics["student_scratch"]) == set(metrics["student_distilled"]) == scores | {"agreement_with_teacher"}
    assert set(metrics["distilled_minus_scratch"]) == {"accuracy", "ci_low", "ci_high", "p_value"}
    assert set(metrics["compression"]) == {"parameters", "macs"}
    export = json.loads((clone.path / "metrics/export.json").read_text())
    assert set(export) == {"float32", "float16", "int8"}
    assert export["float32"]["max_abs_probability_error"] <= 1e-4


def test_repro_again_runs_nothing(clone: Clone) -> None:
    assert clone.ran(clone.run("dvc", "repro")) == set()


def test_repro_from_zero_gives_the_same_lock(clone: Clone) -> None:
    before = (clone.path / "dvc.lock").read_bytes()
    done = clone.run("env", "PYTHONHASHSEED=7", "dvc", "repro", "--force", "--no-run-cache")
    assert clone.ran(done) == set(STAGES)
    assert (clone.path / "dvc.lock").read_bytes() == before


def test_experiment_runs_what_depends_on_it_and_nothing_else(clone: Clone) -> None:
    before = clone.metrics()
    done = clone.run("dvc", "exp", "run", "-n", "hard", "-S", "distill.alpha=1", "-S", "distill.temperature=1e-05")
    assert clone.ran(done) == AFTER_DISTILL
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
        "Experiment|distill.alpha|.*student_distilled.accuracy$",
    )
    assert "hard" in shown.stdout
    clone.run("git", "stash", "-q")
    clone.run("dvc", "checkout", "-q")


def test_queue_over_a_grid(clone: Clone) -> None:
    clone.run("dvc", "exp", "run", "--queue", "-S", "distill.alpha=0.2,0.6")
    clone.run("dvc", "queue", "start", "--jobs", "1")
    clone.run("dvc", "queue", "logs", "--follow", check=False)
    for _ in range(120):
        status = clone.run("dvc", "queue", "status").stdout
        if "Queued" not in status and "Running" not in status:
            break
        clone.run("sleep", "2")
    assert status.count("Success") == 2, status
    shown = json.loads(clone.run("dvc", "exp", "show", "--json").stdout)
    alphas = {
        experiment["revs"][0]["data"]["params"]["params.yaml"]["data"]["distill"]["alpha"]
        for revision in shown
        for experiment in revision["experiments"] or []
    }
    assert {0.2, 0.6} <= alphas


def test_metrics_diff_between_branches_without_cache(clone: Clone, tmp_path: Path) -> None:
    clone.run("git", "checkout", "-qb", "softer")
    clone.set_params(distill={"temperature": 8})
    assert clone.ran(clone.run("dvc", "repro")) == AFTER_DISTILL
    clone.commit("softer")
    clone.run("git", "checkout", "-q", "main")
    clone.run("dvc", "checkout", "-q")
    fresh = Clone(tmp_path / "fresh")
    clone.run("git", "clone", "-q", ".", str(fresh.path))
    diff = json.loads(fresh.run("dvc", "metrics", "diff", "origin/main", "origin/softer", "--json").stdout)
    assert "metrics/evaluate.json" in diff
    assert not any(key.startswith("teacher.") for key in diff["metrics/evaluate.json"])
    params = json.loads(fresh.run("dvc", "params", "diff", "origin/main", "origin/softer", "--json").stdout)
    assert params["params.yaml"]["distill.temperature"]["new"] == 8
    assert fresh.run("dvc", "repro", "--dry", "--allow-missing", check=False).returncode == 0
    plots = json.loads(fresh.run("dvc", "plots", "diff", "origin/main", "origin/softer", "--json").stdout)
    assert "Accuracy while training" in plots.get("data", plots)


def test_plots_hold_the_learning_curves_of_all_three_models(clone: Clone) -> None:
    (chart,) = json.loads(clone.run("dvc", "plots", "show", "--json").stdout)["data"]["Accuracy while training"]
    drawn = {}
    for row in chart["content"]["data"]["values"]:
        drawn.setdefault(row["filename::field"], []).append(row["dvc_inferred_y_value"])
    for model in ("teacher", "student_scratch", "student_distilled"):
        history = json.loads((clone.path / f"plots/history/{model}.json").read_text())
        for curve in ("train_accuracy", "validation_accuracy"):
            assert drawn[f"{model}.json::{curve}"] == [row[curve] for row in history]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"student": {"batch_size": 100_000}}, "batch_size = 100000"),
        ({"distill": {"alpha": 1.5}}, "distill.alpha = 1.5"),
        ({"distill": {"temprature": 2}}, "distill.temprature is not a parameter"),
        ({"data": {"name": "no_such_data_set"}}, "no_such_data_set"),
        ({"teacher": {"weights": "missing.h5"}}, "missing.h5"),
    ],
)
def test_bad_parameters_give_one_line_and_lose_nothing(clone: Clone, change: dict, named: str) -> None:
    others = {path: path.stat().st_mtime_ns for path in (clone.path / "models").glob("teacher*")}
    clone.set_params(**change)
    done = clone.run("dvc", "repro", check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0
    assert len(errors) == 1
    assert named in errors[0]
    assert "Traceback" not in done.stderr
    assert not list(clone.path.rglob(".partial-*"))
    clone.run("git", "restore", "params.yaml", "dvc.lock", "metrics", "plots")
    clone.run("dvc", "checkout", "-q")
    assert clone.ran(clone.run("dvc", "repro")) == set()
    assert {path for path in others if path.exists()} == set(others)


def test_missing_class_folder(clone: Clone) -> None:
    shutil.move(clone.path / "photos/light", clone.path / "light")
    done = clone.run("dvc", "repro", check=False)
    shutil.move(clone.path / "light", clone.path / "photos/light")
    assert done.returncode != 0
    assert "holds 1 class folders; it should hold at least two" in done.stderr
    clone.run("git", "restore", ".")
    clone.run("dvc", "checkout", "-q")
    assert clone.ran(clone.run("dvc", "repro")) == set()

"""Studies: a preset replaces the parameters only for a while, and the summary of seeds is right."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from clone import TINY, Clone
from scipy import stats

from distillation.report import page
from stages.report import GALLERIES
from studies import summary


def write_runs(folder: Path, accuracies: dict[str, np.ndarray]) -> None:
    """Runs of a record: `accuracies` (folds, seeds) of each model, where `tuned` is the tuned scratch."""
    (folder / "runs").mkdir(parents=True)
    for fold, seed in np.ndindex(accuracies["teacher"].shape):
        scores = {
            name: {"accuracy": values[fold, seed], "validation_accuracy": 0.9, "parameters": 10, "macs": 20}
            for name, values in accuracies.items()
        }
        tuned = {"student_scratch": scores.pop("tuned")}
        run = {"cpu": f"cpu {fold}", "int8": {"accuracy": 0.5, "bytes": 7}, "test_images": 100}
        for suffix, models in (("", scores), (".tuned", scores | tuned)):
            path = folder / f"runs/fold-{fold}.seed-{seed}{suffix}.json"
            path.write_text(json.dumps(run | {"models": models}))


def test_seeds_of_one_split_give_a_paired_t_interval(tmp_path: Path):
    accuracies = {"teacher": [0.98] * 3, "student_scratch": [0.91, 0.93, 0.92], "tuned": [0.94, 0.92, 0.93]}
    accuracies["student_distilled"] = [0.95, 0.96, 0.955]
    write_runs(tmp_path, {name: np.array([values]) for name, values in accuracies.items()})
    text = summary.write_summary(tmp_path)
    found = json.loads((tmp_path / "summary.json").read_text())
    gains = np.array(accuracies["student_distilled"]) - accuracies["tuned"]
    low, high = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert found["gain"]["over"] == "student_scratch_tuned"
    values = [found["gain"][key] for key in ("mean", "ci_low", "ci_high", "seeds", "splits")]
    assert values == pytest.approx([gains.mean(), low, high, 3, 1], rel=1e-5)
    assert {name: row["n"] for name, row in found["models"].items()} == {
        "teacher": 1,
        "student_scratch": 3,
        "student_distilled": 3,
        "student_scratch_tuned": 3,
    }
    assert found["models"]["teacher"]["accuracy_sd"] is None
    assert found["models"]["student_distilled"]["accuracy_sd"] == pytest.approx(0.005)
    assert (tmp_path / "summary.md").read_text() == f"{text}\n"
    assert "| distilled | 3 | 95.50 ± 0.50 % |" in text
    assert "| teacher | 1 | 98.00 % | unknown |" in text


@pytest.mark.parametrize("sd_fold", [0.0, 0.01])
def test_intervals_over_folds_hold_what_they_say(sd_fold: float):
    """In many simulated records, 95 % of the intervals hold the true mean, and of the predictions a further run."""
    rng, folds, seeds, times = np.random.default_rng(0), 5, 2, 2000
    index = pd.MultiIndex.from_product([range(folds), range(seeds)], names=["fold", "seed"])
    held = {"mean": 0, "prediction": 0}
    for _ in range(times):
        values = 0.9 + np.repeat(rng.normal(0, sd_fold, folds), seeds) + rng.normal(0, 0.005, folds * seeds)
        truth = {"mean": 0.9, "prediction": 0.9 + rng.normal(0, sd_fold) + rng.normal(0, 0.005)}
        found = summary.intervals(pd.Series(values, index))
        for name, value in truth.items():
            held[name] += found[name][0] <= value <= found[name][1]
    assert held["mean"] / times == pytest.approx(0.95, abs=0.015)
    assert 0.935 <= held["prediction"] / times <= 0.985


def test_one_run_has_no_interval(tmp_path: Path):
    accuracies = {name: np.array([[0.9]]) for name in ("teacher", "student_scratch", "student_distilled", "tuned")}
    write_runs(tmp_path, accuracies)
    assert "unknown" in summary.write_summary(tmp_path)
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["gain"]["ci_low"] is found["gain"]["prediction"] is None


STAND_IN = "name=other state=.checkpoints/other; source studies/stand_in.sh; "


@pytest.fixture
def other(clone: Clone):
    """`clone` with one more preset, which asks for alpha 0.5."""
    preset = clone.path / "presets/other.yaml"
    preset.write_text("distill: {alpha: 0.5}\n")
    yield clone
    preset.unlink()
    clone.run("rm", "-rf", ".checkpoints")
    assert not clone.run("git", "status", "--porcelain").stdout


@pytest.mark.slow
@pytest.mark.parametrize("end", ["true", "false", "kill -INT $$"], ids=["done", "failed", "interrupted"])
def test_preset_that_stood_in_leaves_everything_as_it_was_and_is_taken_up_again(other: Clone, end: str):
    before = other.run("git", "status", "--porcelain").stdout
    work = "grep 'alpha: 0.5' params.yaml >/dev/null; echo 1 >metrics/evaluate.json; echo 2 >plots/new.json; "
    # What a shell starts in the background ignores Ctrl-C, and so would all that it starts: these tests too.
    heeding = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    done = other.run("bash", "-c", f"set -e; {STAND_IN}{work}{end}", check=False, **heeding)
    assert (done.returncode == 0) == (end == "true"), done.stderr
    assert other.run("git", "status", "--porcelain").stdout == before
    again = other.run("bash", "-c", f"set -e; {STAND_IN}cat metrics/evaluate.json plots/new.json")
    assert again.stdout == "1\n2\n"
    assert other.run("git", "status", "--porcelain").stdout == before


@pytest.mark.slow
def test_preset_that_is_committed_already_keeps_its_state_and_what_is_not_committed(other: Clone):
    """README's way: the preset is in the committed `params.yaml`."""
    params = (other.path / "params.yaml").read_text()
    other.run("python", "-m", "distillation.preset", "other")
    other.run("git", "commit", "-qm", "The preset", "params.yaml")
    other.run("bash", "-c", f"set -e; {STAND_IN}echo 1 >metrics/evaluate.json")
    again = other.run("bash", "-c", f"set -e; {STAND_IN}cat metrics/evaluate.json")
    assert again.stdout == "1\n"
    (other.path / "metrics/evaluate.json").write_text("mine")
    refused = other.run("bash", "-c", f"{STAND_IN}echo reached", check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "not committed" in refused.stderr
    assert (other.path / "metrics/evaluate.json").read_text() == "mine"
    other.run("git", "reset", "--quiet", "--hard", "HEAD^")
    assert (other.path / "params.yaml").read_text() == params


@pytest.mark.slow
def test_preset_whose_run_was_killed_goes_on_with_what_it_did(other: Clone):
    """Also where the run had put other parameters into `params.yaml`, as those of a fold or of a student.

    `dvc exp run` that is killed in the workspace leaves git on a detached head.
    """
    work = "sed -i.bak 's/alpha: 0.5/alpha: 0.7/' params.yaml; rm params.yaml.bak; echo 1 >metrics/evaluate.json; "
    work += "git checkout --quiet --detach; "
    killed = other.run("bash", "-c", f"{STAND_IN}{work}kill -KILL $$", check=False)
    assert killed.returncode == -signal.SIGKILL
    again = other.run("bash", "-c", f"set -e; {STAND_IN}grep -c 'alpha: 0.5' params.yaml; cat metrics/evaluate.json")
    assert again.stdout == "1\n1\n"
    (kept,) = (other.path / ".checkpoints").glob("other.killed.*")
    assert "alpha: 0.7" in (kept / "params.yaml").read_text()
    assert (kept / "metrics/evaluate.json").read_text() == "1\n"
    assert other.run("git", "symbolic-ref", "HEAD").stdout == "refs/heads/main\n"


@pytest.mark.slow
def test_preset_that_is_interrupted_as_it_is_put_in_place_leaves_everything_as_it_was(other: Clone):
    other.run("bash", "-c", f"set -e; {STAND_IN}echo 1 >metrics/evaluate.json")
    before = other.run("git", "status", "--porcelain").stdout
    checkout = 'dvc() { if [ ! -e failed ]; then touch failed; return 1; fi; command dvc "$@"; }; '
    done = other.run("bash", "-c", f"set -e; {checkout}{STAND_IN}echo reached", check=False)
    (other.path / "failed").unlink()
    assert (done.returncode, done.stdout) == (1, "")
    assert other.run("git", "status", "--porcelain").stdout == before
    again = other.run("bash", "-c", f"set -e; {STAND_IN}cat metrics/evaluate.json")
    assert again.stdout == "1\n"


@pytest.mark.slow
@pytest.mark.parametrize("left", ["Queued", "Failed"])
def test_studies_whose_queue_is_not_done_end_with_an_error_and_go_on_later(other: Clone, tmp_path: Path, left: str):
    """`dvc exp run --run-all` ends with status 0 also where it was interrupted, or an experiment failed."""
    stub = tmp_path / "dvc"
    stub.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n[ "$2" != status ] || cat {tmp_path}/status\n')
    stub.chmod(0o755)
    (other.path / ".checkpoints").mkdir(exist_ok=True)
    commit = other.run("git", "rev-parse", "HEAD").stdout
    queued = other.path / ".checkpoints/cats_vs_dogs_studies.queued"
    queued.write_text(commit)
    (tmp_path / "status").write_text(f"Task  Name  Created  Status\n1234  ours  10:00    {left}\n")
    path = f"PATH={tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = other.run("env", path, "studies/sweeps.sh", check=False)
    assert done.returncode == 1
    assert "not all experiments are done" in done.stderr
    assert queued.read_text() == commit
    assert "exp run --run-all" in (tmp_path / "asked").read_text()


@pytest.mark.parametrize("changed", [None, "parameters", "images", "teacher"])
def test_runs_stay_in_a_record_while_parameters_images_and_teacher_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str | None
):
    monkeypatch.chdir(tmp_path)
    for folder in (Path(), Path("record")):
        folder.mkdir(exist_ok=True)
        here = changed if folder == Path() else None
        params = {"teacher": {"file": "own.keras"}, "student": {"seed": int(here == "parameters")}}
        deps = [
            {"path": "own.keras", "md5": "0123" if here == "teacher" else "4567"},
            {"path": "code", "md5": f"{folder}"},
        ]
        outs = [{"path": "data/records", "md5": "0123.dir" if here == "images" else "4567.dir"}]
        lock = {"stages": {"prepare": {"outs": outs}, "train_teacher": {"deps": deps}}}
        (folder / "params.yaml").write_text(json.dumps(params))
        (folder / "dvc.lock").write_text(json.dumps(lock))
    assert summary.continues(Path("record")) == (changed is None)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["params.yaml", "metrics/mine.json"])
def test_preset_does_not_stand_in_for_what_is_not_committed(other: Clone, path: str):
    with (other.path / path).open("a") as file:
        file.write("# mine\n")
    done = other.run("bash", "-c", f"{STAND_IN}echo reached", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "not committed" in done.stderr
    assert (other.path / path).read_text().endswith("# mine\n")
    other.run("git", "stash", "--quiet", "--include-untracked", "--", path)


@pytest.mark.slow
def test_record_is_published_without_photographs_and_made_once(clone: Clone):
    preset, record = clone.path / "presets/tiny.yaml", clone.path / "results/tiny"
    preset.write_text(json.dumps(TINY))  # the clone's own parameters: its run is the record's first
    clone.commit("preset")
    command = ["env", "SEEDS=0", "studies/record.sh", "tiny"]
    try:
        assert clone.ran(clone.run(*command)) == {"train_scratch", "evaluate"}  # scratch tuned for itself
        assert clone.run("git", "status", "--porcelain").stdout == "?? results/tiny/\n"
        figures = {path.stem for path in (record / "plots/figures").iterdir()}
        assert figures == page.CAPTIONS.keys() - GALLERIES
        published = clone.run("git", "ls-files", "--others", "--exclude-standard", record).stdout
        assert "plots/report_without_images.html" in published
        assert "plots/report.html" not in published
        found = json.loads((record / "summary.json").read_text())["models"]
        for name, row in clone.metrics().items():
            if name in found:
                assert found[name]["accuracy_mean"] == pytest.approx(row["accuracy"], abs=1e-6)
        assert found["student_scratch_tuned"]["n"] == 1
        assert clone.ran(clone.run(*command)) == set()
    finally:
        clone.run("dvc", "exp", "remove", "--all-commits")
        clone.run("git", "reset", "-q", "--hard", "HEAD~1")
        clone.run("rm", "-rf", ".checkpoints", "results/tiny")

"""What is committed is in step: `dvc.lock` with code and parameters, `results/` with their own locks.

`make check` runs this. It is for what maintainers commit; `make test` looks at nothing of it.
"""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from clone import ROOT, STAGES, Clone, copy_of_the_product
from matplotlib.testing.compare import compare_images

from distillation.params import Params, leaves, load_params
from distillation.preset import complete
from distillation.report import page
from stages import report
from studies import summary

RECORD = Path("results/cats_vs_dogs")
PLACEHOLDERS = ("data/images", "data/class_names.txt", "data/unlabeled", "models/README.md")
PUBLISHED = ("metrics/", "plots/", "models/export")
WITH_IMAGES = {"plots/report.html", "plots/figures"}


def out_of_step(repository: Clone) -> list[str]:
    """Each command, parameter, dep and out that differs from dvc.lock, after its stage; absent data doesn't count."""
    stages = yaml.safe_load((repository.path / "dvc.yaml").read_text())["stages"]
    cached = {out for stage in stages.values() for out in stage["outs"] if isinstance(out, str)}
    named = []
    for stage, changes in json.loads(repository.run("dvc", "status", "--json").stdout).items():
        for change in changes:
            if isinstance(change, str):
                named.append(f"{stage}: {change}")
                continue
            (states,) = change.values()
            for path, state in states.items():
                if isinstance(state, dict):
                    named += [f"{stage}: {path}: {key} {what}" for key, what in state.items()]
                elif path not in cached or state == "modified":
                    named.append(f"{stage}: {path} {state}")
    return named


def test_lock_is_in_step_with_code_and_params() -> None:
    repository = Clone(ROOT)
    assert not out_of_step(repository), "run `dvc repro` and commit dvc.lock, metrics and plots"
    assert repository.ran(repository.run("dvc", "repro", "--dry", "--allow-missing")) == set()


def test_what_is_out_of_step_is_named(tmp_path: Path) -> None:
    repository = Clone(tmp_path / "repository")
    copy_of_the_product(repository)
    for name in ("dvc.lock", "metrics", "plots", "params.yaml", *PLACEHOLDERS):
        source, target = ROOT / name, repository.path / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)
    repository.set_params(distill={"alpha": 0.7})
    definition = repository.path / "dvc.yaml"
    definition.write_text(definition.read_text().replace("stages.export", "stages.export --fast"))
    with (repository.path / "distillation/report/charts.py").open("a") as code:
        code.write("# edited\n")
    (repository.path / "metrics/evaluate.json").write_text("{}")
    (repository.path / "plots/table.md").unlink()
    assert set(out_of_step(repository)) == {
        "distill: params.yaml: distill.alpha modified",
        "evaluate: metrics/evaluate.json modified",
        "export: changed command",
        "report: distillation/report modified",
        "report: metrics/evaluate.json modified",
        "report: params.yaml: distill modified",
        "report: plots/table.md deleted",
    }


def test_parameters_are_the_defaults() -> None:
    assert load_params() == Params()


def test_record_is_what_its_lock_says() -> None:
    stages = yaml.safe_load((RECORD / "dvc.lock").read_text())["stages"]
    assert set(stages) == set(STAGES)
    for stage, content in stages.items():
        for out in content["outs"]:
            if out["path"].startswith(PUBLISHED) and out["path"] not in WITH_IMAGES:
                published = RECORD / out["path"].removeprefix("models/")
                assert digest(published) == out["md5"], f"{published} is not what {stage} wrote"


def test_record_shows_no_image_of_others() -> None:
    """Photographs are not ours to publish: neither those figures that show some, nor the report that holds these."""
    published = {path.stem for path in (RECORD / "plots/figures").iterdir()}
    assert published <= page.CAPTIONS.keys() - report.GALLERIES
    (report_without_images,) = (RECORD / "plots").glob("report_without_*.html")  # older records have another name
    html = report_without_images.read_text()
    assert set(re.findall('<img [^>]*alt="(.+?)"', html)) == published
    assert html.count("data:image") == len(published)
    assert not Clone(ROOT).run("git", "ls-files", "--", "results/**/report.html").stdout


def test_committed_student_keeps_its_goals() -> None:
    scores = json.loads((RECORD / "metrics/export.json").read_text())
    assert scores["float32"]["max_abs_probability_error"] <= 1e-4
    assert scores["int8"]["accuracy"] >= scores["float32"]["accuracy"] - 0.005
    assert scores["int8"]["bytes"] <= 300_000
    for variant, row in scores.items():
        assert (RECORD / f"export/student_{variant}.tflite").stat().st_size == row["bytes"]


def test_record_was_made_with_the_committed_preset() -> None:
    """On the keys that both have: those that came later stand at their defaults. Unused ones may have changed."""
    if not (RECORD / "summary.json").exists():
        pytest.skip("the record was made with older code, which docs/results.md says; `make real` replaces it")
    params = yaml.safe_load((RECORD / "params.yaml").read_text())
    preset = leaves(complete(RECORD.name).model_dump())
    unused = {"teacher.learning_rate"} if preset["teacher.weights"] and not preset["teacher.fine_tune"] else set()
    for key in (leaves(params).keys() & preset.keys()) - unused:
        assert leaves(params)[key] == preset[key], key
    stages = yaml.safe_load((RECORD / "dvc.lock").read_text())["stages"]
    for stage in stages.values():
        for key, value in stage.get("params", {}).get("params.yaml", {}).items():
            declared = params
            for name in key.split("."):
                declared = declared[name]
            assert value == declared, key


@pytest.mark.parametrize("record", sorted(Path("results").glob("*/summary.json")), ids=lambda path: path.parent.name)
def test_summary_of_a_record_is_what_its_runs_give(record: Path, tmp_path: Path) -> None:
    shutil.copytree(record.parent / "runs", tmp_path / "runs")
    summary.write_summary(tmp_path)
    for name in ("summary.json", "summary.md"):
        assert (record.parent / name).read_text() == (tmp_path / name).read_text()
    assert compare_images(record.parent / "summary.png", tmp_path / "summary.png", tol=1) is None


def test_every_diff_of_the_page_on_extending_applies() -> None:
    """tests/test_extending.py runs the pipeline with each, which takes minutes; this says at once which are stale."""
    diffs = re.findall(r"```diff\n(.*?)```", Path("docs/extending.md").read_text(), re.DOTALL)
    assert len(diffs) == 5
    for diff in diffs:
        done = subprocess.run(["git", "apply", "--check", "-"], input=diff, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr


def digest(path: Path) -> str:
    """What DVC calls the MD5 of a file, or of a directory: that of the list of its files."""
    if path.is_file():
        return hashlib.md5(path.read_bytes()).hexdigest()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    rows = [{"md5": digest(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    return f"{hashlib.md5(json.dumps(rows, sort_keys=True).encode()).hexdigest()}.dir"

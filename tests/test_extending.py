"""Every diff of docs/extending.md is applied in a clone, and the pipeline runs with it on tiny data."""

import json
import re
from collections.abc import Iterator

import pytest
import yaml
from clone import ROOT, Clone

pytestmark = pytest.mark.slow

ENDS = {  # where nothing new follows; else all stages run
    "A teacher": ["evaluate"],
    "A student network": ["evaluate", "export"],
    "A loss term": ["train_scratch", "distill"],
    "An augmentation": ["train_scratch", "distill"],
}


def section(title: str) -> tuple[str, dict]:
    """The diff of a section of the page, and the parameters that go with it."""
    page = (ROOT / "docs/extending.md").read_text()
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    (diff,) = re.findall(r"```diff\n(.*?)```", text, re.DOTALL)
    params = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    return diff, yaml.safe_load(params[0]) if params else {}


@pytest.fixture
def extended(clone: Clone, request: pytest.FixtureRequest) -> Iterator[Clone]:
    """`clone` after the change of a section of the page and `dvc repro`, which stops where nothing new follows."""
    diff, params = section(request.param)
    assert len(re.findall(r"^\+\+\+ ", diff, re.MULTILINE)) + bool(params) <= 3, "more than three files"
    assert len(re.findall(r"^[+-](?![+-])", diff, re.MULTILINE)) <= 32, "more than about 30 lines"
    try:
        (clone.path / "change.diff").write_text(diff)
        clone.run("git", "apply", "change.diff")
        content = yaml.safe_load((clone.path / "params.yaml").read_text())
        merge(content, params)
        (clone.path / "params.yaml").write_text(yaml.safe_dump(content))
        clone.run("ruff", "check", ".")
        clone.run("dvc", "repro", *ENDS.get(request.param, []))
        yield clone
    finally:
        clone.run("git", "clean", "-qfd")
        clone.run("git", "checkout", "-q", ".")
        clone.run("dvc", "checkout", "-q")


def merge(content: dict, values: dict) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            merge(content[key], value)
        else:
            content[key] = value


def read(clone: Clone, path: str) -> dict:
    return json.loads((clone.path / path).read_text())


def committed(clone: Clone, path: str) -> dict:
    return json.loads(clone.run("git", "show", f"HEAD:{path}").stdout)


@pytest.mark.parametrize("extended", ["A teacher"], indirect=True)
def test_teacher(extended: Clone) -> None:
    kinds = [layer["class_name"] for layer in read(extended, "models/teacher/network.json")["config"]["layers"]]
    assert kinds.count("LeakyReLU") == 18  # Darknet-19's, and the head
    history = read(extended, "plots/history/student_distilled.json")
    assert all(row["objective_features"] > 0 for row in history)


@pytest.mark.parametrize("extended", ["A student network"], indirect=True)
def test_student_network(extended: Clone) -> None:
    before, after = committed(extended, "metrics/evaluate.json"), read(extended, "metrics/evaluate.json")
    assert after["student_distilled"]["parameters"] < before["student_distilled"]["parameters"]
    assert after["student_scratch"]["parameters"] == after["student_distilled"]["parameters"]
    assert read(extended, "metrics/export.json")["float32"]["max_abs_probability_error"] <= 1e-4


@pytest.mark.parametrize("extended", ["A loss term"], indirect=True)
def test_loss_term(extended: Clone) -> None:
    history = read(extended, "plots/history/student_distilled.json")
    assert all(row["objective_relational"] > 0 for row in history)
    assert all(row["objective_relational"] == 0 for row in read(extended, "plots/history/student_scratch.json"))


@pytest.mark.parametrize("extended", ["An augmentation"], indirect=True)
def test_augmentation(extended: Clone) -> None:
    for model in ("student_scratch", "student_distilled"):
        path = f"plots/history/{model}.json"
        assert read(extended, path) != [*committed(extended, path)]


@pytest.mark.parametrize("extended", ["A metric"], indirect=True)
def test_metric(extended: Clone) -> None:
    metrics = read(extended, "metrics/evaluate.json")
    for model in ("teacher", "student_scratch", "student_distilled"):
        assert 0 < metrics[model]["brier"] < 2
    assert "Brier score" in (extended.path / "plots/report.html").read_text()

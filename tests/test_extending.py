"""Every diff of docs/extending.md is applied in a clone, and the pipeline runs with it on tiny data."""

import json
import re
from collections.abc import Iterator

import pytest
import yaml
from clone import ROOT, Clone

pytestmark = pytest.mark.slow

# Changes that are tried together, since none hides another, and where nothing new follows; else all stages run.
TOGETHER = {
    "teacher": (["A teacher", "A loss term", "An augmentation"], ["evaluate"]),
    "student": (["A student network", "A metric"], []),
}


def section(title: str) -> tuple[str, dict]:
    """The diff of a section of the page, and the parameters that go with it."""
    page = (ROOT / "docs/extending.md").read_text()
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    (diff,) = re.findall(r"```diff\n(.*?)```", text, re.DOTALL)
    params = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    return diff, yaml.safe_load(params[0]) if params else {}


@pytest.fixture(scope="module")
def extended(clone: Clone, request: pytest.FixtureRequest) -> Iterator[Clone]:
    """`clone` after changes of the page and `dvc repro`, which stops where nothing new follows."""
    titles, targets = TOGETHER[request.param]
    changes = [section(title) for title in titles]
    try:
        for number, (diff, params) in enumerate(changes):
            assert len(re.findall(r"^\+\+\+ ", diff, re.MULTILINE)) + bool(params) <= 3, "more than three files"
            assert len(re.findall(r"^[+-](?![+-])", diff, re.MULTILINE)) <= 32, "more than about 30 lines"
            (clone.path / f"{number}.diff").write_text(diff)
            clone.run("git", "apply", "--check", f"{number}.diff")  # alone
        content = yaml.safe_load((clone.path / "params.yaml").read_text())
        for number, (_, params) in enumerate(changes):
            clone.run("git", "apply", f"{number}.diff")
            merge(content, params)
        (clone.path / "params.yaml").write_text(yaml.safe_dump(content))
        clone.run("ruff", "check", ".")
        clone.run("dvc", "repro", *targets)
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


@pytest.mark.parametrize("extended", ["teacher"], indirect=True)
def test_teacher(extended: Clone) -> None:
    kinds = [layer["class_name"] for layer in read(extended, "models/teacher/network.json")["config"]["layers"]]
    assert kinds.count("LeakyReLU") == 18  # Darknet-19's, and the head
    history = read(extended, "plots/history/student_distilled.json")
    assert all(row["objective_features"] > 0 for row in history)


@pytest.mark.parametrize("extended", ["student"], indirect=True)
def test_student_network(extended: Clone) -> None:
    before, after = committed(extended, "metrics/evaluate.json"), read(extended, "metrics/evaluate.json")
    assert after["student_distilled"]["parameters"] < before["student_distilled"]["parameters"]
    assert after["student_scratch"]["parameters"] == after["student_distilled"]["parameters"]
    assert read(extended, "metrics/export.json")["float32"]["max_abs_probability_error"] <= 1e-4


@pytest.mark.parametrize("extended", ["teacher"], indirect=True)
def test_loss_term(extended: Clone) -> None:
    history = read(extended, "plots/history/student_distilled.json")
    assert all(row["objective_relational"] > 0 for row in history)
    assert all(row["objective_relational"] == 0 for row in read(extended, "plots/history/student_scratch.json"))


@pytest.mark.parametrize("extended", ["teacher"], indirect=True)
def test_augmentation(extended: Clone) -> None:
    path = "plots/history/student_scratch.json"  # neither the teacher nor the loss term changes it
    before, after = committed(extended, path), read(extended, path)
    assert [row["train_loss"] for row in after] != [row["train_loss"] for row in before]


@pytest.mark.parametrize("extended", ["student"], indirect=True)
def test_metric(extended: Clone) -> None:
    metrics = read(extended, "metrics/evaluate.json")
    for model in ("teacher", "student_scratch", "student_distilled"):
        assert 0 < metrics[model]["brier"] < 2
    assert "Brier score" in (extended.path / "plots/report.html").read_text()

"""The clockwork of the benchmarks, and what stands in their results; no speed is tested here."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import _timing
from benchmarks.__main__ import SCRIPTS
from benchmarks._workspace import CLASSES, distilled, training_step, workspace
from distillation.records import Records

RATIOS = {script for script in SCRIPTS if script not in ("latency", "scaling")} | {
    "student_float32_speedup_over_teacher",
    "student_int8_speedup_over_teacher",
}


@pytest.fixture(scope="module")
def results() -> dict:
    return json.loads(_timing.RESULTS.read_text())


def test_interleaved_times_calls_in_alternating_order(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = [0.0], []
    monkeypatch.setattr(_timing.time, "perf_counter", lambda: now[0])

    def turn(name: str, seconds: float):
        def call() -> None:
            order.append(name)
            now[0] += seconds * (1 + len(order))  # the machine slows down

        return call

    seconds = _timing.interleaved(turn("a", 2), turn("b", 1), rounds=2, calls=2, untimed=1)
    assert "".join(order) == "aaabbbbbbaaa"
    # Of each turn's three calls the second and third count.
    assert seconds.tolist() == [[2 * (3 + 4), 6 + 7], [2 * (12 + 13), 9 + 10]]


@pytest.mark.parametrize(("goal", "met"), [(">= 3", True), (">= 4", False), ("<= 3", True), ("<= 2.9", False)])
def test_answer_is_median_and_quartiles(goal: str, met: bool) -> None:
    found = _timing.answer("How much?\nMore.", np.array([1.0, 100.0, 3.0, 2.0, 5.0]), goal)
    assert found == {"question": "How much?", "median": 3.0, "quartiles": [2.0, 5.0], "goal": goal, "met": met}


def test_record_keeps_what_else_stands_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_timing, "RESULTS", tmp_path / "results.json")
    _timing.record(one=[{"images": 1}])
    _timing.record(two=_timing.answer("Two?", np.array([2.0]), ">= 1"))
    _timing.record(one=[{"images": 2}])
    written = json.loads((tmp_path / "results.json").read_text())
    assert set(written) == {"one", "two", "environment"}
    assert written["one"] == [{"images": 2}]
    assert written["two"]["median"] == 2


def test_record_drops_what_another_environment_gave(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_timing, "RESULTS", tmp_path / "results.json")
    for cpu in ("old", "new"):
        monkeypatch.setattr(_timing, "_environment", lambda cpu=cpu: {"cpu": cpu})
        _timing.record(**{f"on_{cpu}": [{"images": 1}]})
    written = json.loads((tmp_path / "results.json").read_text())
    assert written == {"environment": {"cpu": "new"}, "on_new": [{"images": 1}]}


@pytest.mark.slow
def test_a_step_in_the_workspace_trains_on_what_the_stages_would_write() -> None:
    with workspace(images=128, views=1) as params:
        model, batches, loss = distilled(params, Records("data/records", "train"))
        step = training_step(model, batches, params.student, loss)
        step()
        side = params.teacher.image_size // 32
        columns = 1 + len(CLASSES) + 2 * side * side * params.distill.feature_channels
        size, batch = params.student.image_size, params.student.batch_size
        assert [tuple(tensor.shape) for tensor in next(iter(batches))] == [(batch, size, size, 3), (batch, columns)]
    assert int(model.optimizer.iterations) == 2  # `training.fit` took the first


def test_every_script_has_its_key_in_the_results(results: dict) -> None:
    assert set(results) == {*RATIOS, "latency", "scaling", "environment"}


def test_results_are_what_the_scripts_ask(results: dict) -> None:
    """Each script's question and goal, and whether its median meets it."""
    for key in RATIOS:
        entry = results[key]
        script = Path(f"benchmarks/{key if key in SCRIPTS else 'latency'}.py").read_text()
        assert entry["question"].partition(" (")[0] in script
        assert f'"{entry["goal"]}"' in script
        low, high = entry["quartiles"]
        assert low <= entry["median"] <= high
        sign, limit = entry["goal"].split()
        assert entry["met"] == (entry["median"] >= float(limit) if sign == ">=" else entry["median"] <= float(limit))

"""The clockwork of the benchmarks; no speed is tested here."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import _timing
from benchmarks._workspace import CLASSES, distilled, training_step, workspace
from distillation.data.records import Records


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
        network, batches, objective = distilled(params, Records("train"))
        before = [weights.copy() for weights in network.get_weights()]
        training_step(network, batches, objective, params.student)()
        size, batch, channels = params.student.image_size, params.student.batch_size, params.distill.feature_channels
        first = next(iter(batches))
        assert first["image"].shape == (batch, size, size, 3)
        assert first["label"].shape == (batch,)
        side = params.teacher.image_size // 32
        assert {name: tuple(values.shape) for name, values in first["teacher"].items()} == {
            "logits": (batch, len(CLASSES)),
            "middle_map": (batch, 2 * side, 2 * side, channels // 4),
            "last_map": (batch, side, side, channels),
        }
    assert any((old != new).any() for old, new in zip(before, network.get_weights(), strict=True))

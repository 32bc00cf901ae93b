"""`benchmarks/results.json` holds an answer of every benchmark."""

import json
from pathlib import Path

import pytest

from benchmarks import _timing
from benchmarks.__main__ import SCRIPTS

RATIOS = {script for script in SCRIPTS if script not in ("latency", "scaling")} | {
    "student_float32_speedup_over_teacher",
    "student_int8_speedup_over_teacher",
}


@pytest.fixture(scope="module")
def results() -> dict:
    return json.loads(_timing.RESULTS.read_text())


def test_every_script_has_its_key_in_the_results(results: dict) -> None:
    optional = {"arithmetic", "teachers"}  # rows beside an answer
    assert set(results) - optional == {*RATIOS, "latency", "scaling", "environment"}


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

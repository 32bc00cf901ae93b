"""Timing of interleaved rounds, and the file and the table with their results."""

import operator
import os
import platform
import re
import resource
import time
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path

import numpy as np

from distillation import cpu
from distillation.files import read_json, write_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results.json"
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")  # CPUs of one name may differ fourfold
PACKAGES = {"tensorflow", "tensorflow-cpu", "keras", "ai-edge-litert", "numpy", "dvc"}
GOALS = {">=": operator.ge, "<=": operator.le}


def interleaved(*turns: Callable[[], object], rounds: int, calls: int = 1, untimed: int = 0) -> np.ndarray:
    """Seconds that `calls` calls of each of `turns` took: (rounds, turns).

    In a round each has its turn, in every other round in reverse, so that a machine that slows down
    does so for all of them. Each turn begins with `untimed` calls, which also use up what an input
    pipeline had prefetched in the meantime.
    """
    seconds = np.empty((rounds, len(turns)))
    for number in range(rounds):
        for turn in range(len(turns))[:: -1 if number % 2 else 1]:
            for _ in range(untimed):
                turns[turn]()
            start = time.perf_counter()
            for _ in range(calls):
                turns[turn]()
            seconds[number, turn] = time.perf_counter() - start
    return seconds


def answer(question: str, values: np.ndarray, goal: str) -> dict:
    """Median and quartiles of `values`, one a round, against `goal`: `>= 3` or `<= 1.05`.

    Of `question`, usually a script's docstring, the first line is kept.
    """
    low, median, high = (float(value) for value in np.quantile(values, (0.25, 0.5, 0.75)))
    sign, limit = goal.split()
    met = bool(GOALS[sign](median, float(limit)))
    question = question.partition("\n")[0]
    return {"question": question, "median": median, "quartiles": [low, high], "goal": goal, "met": met}


def record(**entries: object) -> None:
    """Put `entries` into results.json beside the other results of this environment, and show them.

    What another one gave is dropped: figures of two machines are not to be compared.
    """
    results, environment = read_json(RESULTS) if RESULTS.exists() else {}, _environment()
    if results.get("environment") != environment:
        results = {"environment": environment}
    write_json(RESULTS, results | entries)
    print(table(entries), flush=True)


def table(results: dict) -> str:
    """Questions against goals, and below them the tables of rows."""
    import pandas as pd  # not where a process's memory is measured

    answers = {
        entry["question"]: {
            "median": f"{entry['median']:.2f}",
            "quartiles": "{:.2f} to {:.2f}".format(*entry["quartiles"]),
            "goal": entry["goal"],
            "met": "yes" if entry["met"] else "no",
        }
        for entry in results.values()
        if "goal" in entry
    }
    rows = [
        f"{key}:\n{pd.DataFrame(entry).to_string(index=False, na_rep='', float_format='{:.2f}'.format)}"
        for key, entry in results.items()
        if isinstance(entry, list)
    ]
    return "\n\n".join(([pd.DataFrame(answers).T.to_string()] if answers else []) + rows)


def peak_mib() -> float:
    """Largest resident set that this process has had, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, `getrusage` of a process counts the one that started it
        return int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _environment() -> dict:
    found = {package.name.lower().replace("_", "-"): package.version for package in distributions()}
    return {
        "cpu": cpu.name(),
        "instructions": [name for name in INSTRUCTIONS if name in (cpu.instructions() or ())],
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version for name, version in found.items() if name in PACKAGES},
    }

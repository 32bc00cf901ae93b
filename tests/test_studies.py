"""Studies: a preset that stands in for the parameters goes away again, and seeds are summed up as they should be."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from clone import Clone
from scipy import stats

from studies import seeds


def test_seeds_give_mean_deviation_and_the_t_interval_of_the_paired_gain(tmp_path: Path):
    accuracies = {"teacher": [0.98, 0.98, 0.98], "student_scratch": [0.91, 0.93, 0.92], "tuned": [0.94, 0.92, 0.93]}
    accuracies["student_distilled"] = [0.95, 0.96, 0.955]
    (tmp_path / "seeds").mkdir()
    for seed, values in enumerate(zip(*accuracies.values(), strict=True)):
        rows = {name: {"accuracy": value, "ece": 0.01} for name, value in zip(accuracies, values, strict=True)}
        tuned = {"student_scratch": rows.pop("tuned")}
        (tmp_path / f"seeds/{seed}.json").write_text(json.dumps(rows))
        (tmp_path / f"seeds/{seed}.scratch.json").write_text(json.dumps(tuned))
    text = seeds.main(tmp_path)
    assert (tmp_path / "seeds.md").read_text() == f"{text}\n"
    assert "| teacher | 1 | 98.00 % | 0.010 |" in text
    assert "| distilled | 3 | 95.50 ± 0.50 % | 0.010 |" in text
    assert "| scratch | 3 | 92.00 ± 1.00 % | 0.010 |" in text
    for name, baseline in (("scratch", "student_scratch"), ("scratch, tuned", "tuned")):
        gains = 100 * (np.array(accuracies["student_distilled"]) - accuracies[baseline])
        low, high = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
        expected = f"Distilled minus {name}, by seed: {gains.mean():+.2f} points (n = 3, 95 % t interval "
        assert f"{expected}{low:+.2f} to {high:+.2f})." in text


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

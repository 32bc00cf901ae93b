"""The best student for a budget: chosen from made-up fronts, and from a ladder that is trained, killed and taken up."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clone import TINY, Clone
from scipy import stats

from distillation.errors import InputError
from distillation.networks.network import macs
from distillation.networks.students import STUDENTS, build_student
from distillation.params import Params
from distillation.predict import load_student
from studies import front, ladder


def point(name: str, kilobytes: float, milliseconds: float, validation: float, test: float, variant: str = "int8"):
    return {
        "name": name,
        "network": name.partition("-")[0],
        "variant": variant,
        "bytes": 1000 * kilobytes,
        "milliseconds": milliseconds,
        "validation_accuracy_mean": validation,
        "accuracy_mean": test,
        "accuracy_ci_low": test - 0.01,
        "accuracy_ci_high": test + 0.01,
        "scratch_accuracy_mean": test - 0.02,
        "parameters": 1000 * kilobytes,
        "macs": 1e6,
        "peak_mib": 50,
        "n": 1,
        "on_front": True,
        "best_seed": f"{name}.seed-0",
    }


# On test the order is the reverse of that on validation: whoever looks at test chooses another.
POINTS = [
    point("residual-a", 30, 0.1, 0.90, 0.97),
    point("residual-b", 100, 0.3, 0.94, 0.95),
    point("inverted-c", 100, 0.2, 0.93, 0.96),
    point("inverted-d", 300, 0.6, 0.96, 0.93),
    point("inverted-d", 1000, 0.4, 0.96, 0.93, "float32"),
    point("resnet8-e", 400, 0.7, 0.95, 0.94),
]
TEACHER = {"accuracy": 0.98, "validation_accuracy": 0.97, "bytes": 9e6, "milliseconds": 3.0, "peak_mib": 90}
TEACHER |= {"parameters": 2_260_546, "macs": 3e8}
REFERENCE = {"name": "net", "variant": "int8", "bytes": 2e5, "milliseconds": 0.6, "peak_mib": 60, "dominates": []}
REFERENCE |= {"accuracy": 0.935, "validation_accuracy": 0.955, "parameters": 200_000, "macs": 2e7}
FRONT = {
    "points": POINTS,
    "references": [REFERENCE],
    "teacher": TEACHER,
    "images": {"validation": 400, "test": 500},
    "shown": 1000,
    "cpu": "a CPU",
}


@pytest.mark.parametrize(
    ("budget", "name", "variant"),
    [
        ({"max_kilobytes": 100}, "residual-b", "int8"),
        ({"max_kilobytes": 99.9}, "residual-a", "int8"),
        ({"max_milliseconds": 0.25}, "inverted-c", "int8"),
        ({"max_milliseconds": 0.5}, "inverted-d", "float32"),
        ({"max_milliseconds": 0.5, "max_kilobytes": 500}, "residual-b", "int8"),
        ({"max_kilobytes": 5000}, "inverted-d", "int8"),  # of two as good the smaller
        ({"within": 3.5}, "residual-b", "int8"),
        ({"within": 4.5}, "residual-b", "int8"),
        ({"within": 8}, "residual-a", "int8"),
        ({"within": 1.5}, "inverted-d", "int8"),
        ({"within": 3}, "residual-b", "int8"),  # exactly: 97 - 94, which binary fractions miss
        ({"within": 1.5, "max_milliseconds": 0.5}, "inverted-d", "float32"),
    ],
    ids=str,
)
def test_best_within_a_budget_by_validation(budget: dict, name: str, variant: str):
    chosen, met = front.choose(FRONT, budget)
    assert met
    assert (chosen["name"], chosen["variant"]) == (name, variant)


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        ({"max_kilobytes": 20}, "residual-a"),
        ({"max_milliseconds": 0.05}, "residual-a"),
        ({"within": 0.5}, "inverted-d"),
        ({"max_kilobytes": 90, "within": 3.5}, "residual-b"),  # a tenth more bytes, rather than 3.5 points less
    ],
    ids=str,
)
def test_nearest_to_a_budget_that_nothing_meets(budget: dict, name: str):
    chosen, met = front.choose(FRONT, budget)
    assert not met
    assert chosen["name"] == name


def test_the_sentence_reports_test_accuracy():
    budget = {"max_kilobytes": 100, "max_milliseconds": 0.5}
    assert front.sentence(FRONT, budget, *front.choose(FRONT, budget)) == (
        "For a student of 100 kB or less and of 0.5 ms or less, take residual-b in int8: 100.0 kB, 0.30 ms, 95.0 % of "
        "the test images right (94.0 to 96.0 %), 3.0 points below the teacher there (from scratch: 93.0 %)."
    )
    unmet = front.sentence(FRONT, {"within": 0.5}, *front.choose(FRONT, {"within": 0.5}))
    assert unmet.startswith(
        "There is no student within 0.5 points of the teacher on validation; the nearest is inverted-d in int8: 300.0"
    )


def test_front_is_what_nothing_beats_in_cost_and_validation():
    names = {cost: [POINTS[number]["name"] for number in front.pareto(POINTS, cost)] for cost in front.COSTS}
    assert names["bytes"] == ["residual-a", "residual-b", "inverted-d"]
    assert names["milliseconds"] == ["residual-a", "inverted-c", "residual-b", "inverted-d"]


def test_equal_points_stand_on_the_front_once():
    assert front.pareto([POINTS[0], POINTS[0]], "bytes") == [0]


def test_figure_shows_every_point_and_both_fronts():
    figure = front.draw(FRONT)
    for axes, cost in zip(figure.axes, front.COSTS, strict=True):
        line, *marks = axes.lines
        assert list(line.get_xdata()) == [POINTS[number][cost] for number in front.pareto(POINTS, cost)]
        found = {(mark.get_xdata()[0], round(mark.get_ydata()[0], 6)) for mark in marks}
        others = {(TEACHER[cost], 98.0), (REFERENCE[cost], 93.5)}
        assert found == {(row[cost], round(100 * row["accuracy_mean"], 6)) for row in POINTS} | others


def test_table_is_sorted_by_bytes():
    rows = [line for line in front.table(FRONT).splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [
        *("residual-a", "residual-b", "inverted-c", "inverted-d", "resnet8-e", "inverted-d", "net", "teacher")
    ]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["resnet8-e int8"]),
        ({"milliseconds": 0.8}, []),
        ({"bytes": 1e5, "milliseconds": 0.3}, ["residual-b int8", "resnet8-e int8"]),
        ({"bytes": 1e5, "milliseconds": 0.2}, ["residual-b int8", "inverted-c int8", "resnet8-e int8"]),
        ({"bytes": 1e5, "milliseconds": 0.2, "validation_accuracy": 0.939}, ["inverted-c int8"]),
        ({"bytes": 1e4, "milliseconds": 0.01, "validation_accuracy": 0.899}, []),
    ],
    ids=str,
)
def test_reference_dominates_what_is_neither_better_nor_smaller_nor_quicker(changes: dict, names: list[str]):
    assert front.dominated(POINTS, REFERENCE | changes) == names


@pytest.mark.parametrize("arguments", [["--max-kilobytes", "0"], ["--within", "nan"], ["--max-milliseconds", "fast"]])
def test_no_budget_is_refused(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr("sys.argv", ["front", *arguments])
    with pytest.raises(SystemExit) as refused:
        front.main()
    assert refused.value.code == 2
    assert "argument --" in capsys.readouterr().err


def test_front_that_is_not_there_gets_a_line(tmp_path: Path):
    with pytest.raises(InputError, match=r"there is no .*front\.json: run `make front"):
        front.read_front(tmp_path)
    with pytest.raises(InputError, match="its files are not here"):
        front.export(tmp_path / "student", "digest", tmp_path / "export")


def test_export_is_of_the_student_described_and_replaces_only_an_export(tmp_path: Path):
    student, target = tmp_path / "student", tmp_path / "mine"
    (student / "export").mkdir(parents=True)
    (student / "export/preprocessing.json").write_text("{}")
    (student / "run.json").write_text('{"made_of": "digest"}')
    with pytest.raises(InputError, match="holds another student than"):
        front.export(student, "other", target)
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="mine holds something else"):
        front.export(student, "digest", target)
    assert (target / "thesis.txt").exists()
    for _ in range(2):
        front.export(student, "digest", tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["preprocessing.json"]


def test_folder_that_cannot_be_made_gets_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    student = tmp_path / "residual-b.seed-0"
    (student / "export").mkdir(parents=True)
    (student / "run.json").write_text('{"made_of": "digest"}')
    (tmp_path / "file").touch()
    monkeypatch.setattr(front, "read_front", lambda folder: FRONT | {"points": [POINTS[1] | {"made_of": "digest"}]})
    monkeypatch.setattr(front, "finished", lambda preset: tmp_path)
    monkeypatch.setattr("sys.argv", ["front", "--max-kilobytes", "100", "--output", str(tmp_path / "file/export")])
    with pytest.raises(SystemExit, match=r"^error: the student cannot be exported \("):
        front.main()


# The ladder


def test_ladder_is_the_presets_own_student_and_those_of_the_table(tmp_path: Path):
    path = tmp_path / "ladder.yaml"
    path.write_text("share: 0.5\nstudents: {small: {network: resnet8, channels: [4, 8]}}\n")
    preset = Params()
    found = ladder.students(preset, path)
    assert list(found) == [front.OWN, "small"]
    assert {params.budget.shown for params in found.values()} == {preset.budget.shown // 2}
    assert found[front.OWN].student == preset.student
    assert found["small"].student.model_dump() == preset.student.model_dump() | {
        "network": "resnet8",
        "channels": [4, 8],
    }
    assert ladder.students(preset, path, share=2)["small"].budget.shown == 2 * preset.budget.shown


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "should hold `share`"),
        ("share: much\nstudents: {}", "should hold `share`"),
        ("share: 1", "should hold `share`"),
        ("share: 1\nstudents: {a: {network: resnet9}}", "a: student.network = 'resnet9', should be"),
        ("share: 1\nstudents: {a: {depth: 3}}", "a: student.depth is not a parameter"),
        ("share: 0\nstudents: {}", "share = 0, should be a number above 0"),
        ("share: .nan\nstudents: {}", "share = nan, should be"),
        ("share: .inf\nstudents: {}", "share = inf, should be"),
        ("share: 1\nstudents: {}\nreferences: {a: {image_size: 8}}", "a: teacher.image_size = 8"),
    ],
)
def test_ladder_that_is_none_gets_a_line(tmp_path: Path, text: str, problem: str):
    (tmp_path / "ladder.yaml").write_text(text)
    with pytest.raises(InputError, match=problem):
        ladder.students(Params(), tmp_path / "ladder.yaml")
        ladder.references(Params(), tmp_path / "ladder.yaml")


def test_committed_ladder_has_equally_many_students_of_each_network_within_30_million_operations():
    found = ladder.students(Params(), ladder.LADDER)
    networks = [params.student.network for name, params in found.items() if name != front.OWN]
    assert len(networks) >= 10
    assert {networks.count(name) for name in STUDENTS} == {len(networks) / len(STUDENTS)}
    for name, params in found.items():
        student = build_student(params.student, 2)
        assert macs(student) <= 30e6, name
        assert student.count_params() <= 300_000, name


def run_of(name: str, seed: int, accuracy: float) -> dict:
    """What `train` keeps of a student, whose accuracy in int8 is one point less and on validation two more."""
    scores = {"parameters": 1234, "macs": 5678, "accuracy": accuracy, "train_accuracy": 0.9, "validation_accuracy": 0.8}
    files = {"float32": accuracy, "int8": accuracy - 0.01}
    return {
        "name": name,
        "key": f"{name}.seed-{seed}",
        "made_of": f"what made {name} {seed}",
        "params": Params().model_dump(),
        "images": {"validation": 100, "test": 200},
        "files": {key: {"accuracy": value, "validation_accuracy": value + 0.02} for key, value in files.items()},
        "teacher": scores,
        "student_scratch": scores | {"accuracy": accuracy - 0.1},
        "student_distilled": scores,
    }


def test_a_point_is_the_mean_over_its_seeds():
    runs = [run_of("a", 0, 0.8), run_of("a", 1, 0.9), run_of("b", 0, 0.7), run_of("b", 1, 0.7)]
    cost = {"milliseconds": 1.0, "bytes": 100, "peak_mib": 40.0}
    measured = {f"{row['key']} {variant}": cost for row in runs for variant in front.VARIANTS} | {"teacher": cost}
    files = {key: {"accuracy": 0.8, "validation_accuracy": 1.0} for key in front.VARIANTS}
    other = {"name": "net", "files": files, "parameters": 5, "macs": 6, "params": Params().model_dump()}
    found = ladder.summarise(runs, [other], measured | {f"net {variant}": cost for variant in front.VARIANTS})
    assert [row["dominates"] for row in found["references"]] == [["a float32"]] * 2
    first = found["points"][0]
    interval = stats.binomtest(170, 200).proportion_ci(method="wilson")
    assert [(row["name"], row["variant"]) for row in found["points"]] == [
        *(("a", "float32"), ("a", "int8"), ("b", "float32"), ("b", "int8"))
    ]
    assert [first[key] for key in ("accuracy_mean", "accuracy_sd", "n")] == pytest.approx([0.85, 0.1 / 2**0.5, 2])
    assert [first["accuracy_ci_low"], first["accuracy_ci_high"]] == pytest.approx([interval.low, interval.high])
    assert first["scratch_accuracy_mean"] == pytest.approx(0.75)
    assert (first["best_seed"], first["made_of"]) == ("a.seed-1", "what made a 1")
    assert [row["on_front"] for row in found["points"]] == [True, False, False, False]


@pytest.fixture
def with_preset(clone: Clone) -> Iterator[Clone]:
    """`clone` with a preset that differs from its parameters in alpha alone."""
    preset = clone.path / "presets/tiny.yaml"
    preset.write_text(json.dumps(TINY | {"distill": TINY["distill"] | {"alpha": 0.5}}))
    yield clone
    preset.unlink()
    clone.run("rm", "-rf", ".checkpoints", "results/tiny_front")
    clone.run("dvc", "exp", "remove", "--all-commits")
    assert not clone.run("git", "status", "--porcelain").stdout


@pytest.mark.slow
def test_ladder_that_is_killed_goes_on_and_answers(with_preset: Clone, tmp_path: Path):
    clone, students = with_preset, with_preset.path / ".checkpoints/tiny_front_students"
    table = tmp_path / "ladder.yaml"
    table.write_text(
        "share: 1\n"
        "students: {small: {network: inverted_residual, channels: [4, 4, 8]}}\n"
        "references: {net: {network: MobileNet, width: 0.5}, other: {weights: not-there.weights.h5}}\n"
    )
    command = ["env", f"LADDER={table}", "studies/front.sh", "tiny"]
    before = state(clone)
    first = students / "preset.seed-0/run.json"
    # The preset's own student is trained from scratch already, so this kills the training of the second one.
    killing = [f"PYTHONPATH={Path(__file__).with_name('kill')}", "KILL=train_scratch script 20 0"]
    ended(start(clone, ["env", "PYTHONDONTWRITEBYTECODE=1", *killing, *command]))
    assert state(clone) != before
    made = first.stat().st_mtime_ns
    process = start(clone, command)
    while "network: inverted" not in (clone.path / "dvc.lock").read_text("utf-8"):  # trained from scratch
        assert process.poll() is None, "it ended before"
        time.sleep(0.1)
    time.sleep(1)  # until DVC has begun the next stage
    os.killpg(process.pid, signal.SIGINT)
    ended(process)
    assert state(clone) == before
    done = clone.run(*command)
    assert first.stat().st_mtime_ns == made
    assert "Stage 'train_scratch' didn't change, skipping" in done.stdout
    assert [line for line in done.stderr.splitlines() if line.startswith("student ")] == [
        "student 2 of 2: small.seed-0"
    ]
    assert "reference 1 of 2: net\n" in done.stderr
    assert "\nother is left out: " in done.stderr
    assert state(clone) == before
    experiments = clone.run("dvc", "exp", "list", "--name-only").stdout.split()
    assert {"tiny_front-preset.seed-0", "tiny_front-small.seed-0"} <= set(experiments)

    found = json.loads((clone.path / "results/tiny_front/front.json").read_text())
    assert [(row["name"], row["variant"]) for row in found["points"]] == [
        *(("preset", "float32"), ("preset", "int8"), ("small", "float32"), ("small", "int8"))
    ]
    for row in found["points"]:
        assert 0 < row["milliseconds"] < 1000
        assert 0 <= row["accuracy_ci_low"] <= row["accuracy_mean"] <= row["accuracy_ci_high"] <= 1

    assert [(row["name"], row["variant"]) for row in found["references"]] == [("net", "float32"), ("net", "int8")]
    assert found["references"][0]["parameters"] > found["teacher"]["parameters"]

    smallest = min(found["points"], key=lambda row: row["bytes"])
    ask = ["python", "-m", "studies.front", "tiny", "--max-kilobytes"]
    answer = clone.run(*ask, str(smallest["bytes"] / 1000))
    assert f"take {smallest['name']} in int8: " in answer.stdout
    exported = clone.path / "results/tiny_front/export"
    assert (exported / "student_int8.tflite").stat().st_size == smallest["bytes"]
    assert (exported / "README.md").exists()
    assert load_student(exported / "student_int8.tflite").classes == ["dark", "gråt", "light"]
    refused = clone.run(*ask, "1", check=False)
    assert (refused.returncode, refused.stderr) == (1, "")
    assert refused.stdout.startswith("There is no student of 1 kB or less; the nearest is ")


def state(clone: Clone) -> tuple[str, str]:
    """The branch, and what git sees changed but the record."""
    changed = clone.run("git", "status", "--porcelain", "--", ".", ":!results").stdout
    return clone.run("git", "rev-parse", "--abbrev-ref", "HEAD").stdout, changed


def start(clone: Clone, command: list[str]) -> subprocess.Popen:
    """Run `command` in a process group of its own, which heeds SIGINT also where this runs in the background."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    heeding = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    return subprocess.Popen(command, cwd=clone.path, env=environment, start_new_session=True, **heeding)


def ended(process: subprocess.Popen) -> None:
    """Wait until the whole process group is gone; check that it failed."""
    assert process.wait() != 0
    deadline = time.monotonic() + 60
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:  # DVC takes a dead process that init has not yet seen for a running one
            os.killpg(process.pid, 0)
            time.sleep(0.1)

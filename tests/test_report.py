"""The report: its sentences about the metrics, and its choice of images."""

import base64
import contextlib
import html
import re
import shutil
from pathlib import Path
from unittest import mock

import keras
import numpy as np
import pandas as pd
import pytest
import yaml
from helpers import (
    changed,
    export_of_a_run,
    history_of_a_run,
    metrics_of_a_run,
    write_numbers_of_a_run,
)
from matplotlib.figure import Figure

from distillation.data.records import Records
from distillation.data.views import UNMIXED
from distillation.errors import InputError
from distillation.files import read_json
from distillation.inference.forward import view_images
from distillation.networks.network import save_network
from distillation.params import Params
from distillation.report import charts, galleries, page, style, verdict
from distillation.report.statistics import MODELS, PREDICTIONS
from stages import report

CHARTS = ["summary", "learning_curves", "objective", "cost", "reliability"]
TEACHER_SIDE = 20  # not that of the parameters: as where the teacher is one's own file
OF_IMAGES = ["montage", "views", "disagreements", "soft_labels"]


HELPED = {"accuracy": 0.021, "ci_low": 0.008, "ci_high": 0.034, "p_value": 0.001}
HURT = {"accuracy": -0.02, "ci_low": -0.03, "ci_high": -0.01, "p_value": 1e-9}
UNDECIDED = {"accuracy": 0.004, "ci_low": -0.003, "ci_high": 0.011, "p_value": 0.31}
ONLY_INTERVAL = {"accuracy": 0.01, "ci_low": 0.001, "ci_high": 0.02, "p_value": 0.06}
ONLY_TEST = {"accuracy": 0.01, "ci_low": -0.001, "ci_high": 0.02, "p_value": 0.04}


@pytest.mark.parametrize(
    ("row", "gain", "found"),
    [
        (HELPED, "+2.1 points (95 % interval +0.8 to +3.4, p = 0.001)", "Distillation helped"),
        (HURT, "-2.0 points (95 % interval -3.0 to -1.0, p < 0.001)", "Distillation hurt"),
        (UNDECIDED, "+0.4 points (95 % interval -0.3 to +1.1, p = 0.31)", "Undecided"),
        (ONLY_INTERVAL, "+1.0 points (95 % interval +0.1 to +2.0, p = 0.06)", "Undecided"),
        (ONLY_TEST, "+1.0 points (95 % interval -0.1 to +2.0, p = 0.04)", "Undecided"),
    ],
)
def test_verdict_needs_both_the_interval_and_the_test(row: dict, gain: str, found: str):
    metrics = {"distilled_minus_scratch": row, "teacher_minus_scratch": HELPED}
    assert verdict.gain(metrics) == f"distilled minus scratch, on test: {gain}"
    assert verdict.verdict(metrics).startswith(found)


@pytest.mark.parametrize(
    ("row", "answer", "said"),
    [
        (HELPED, "yes", "is better than scratch on validation"),
        (HURT, "no", "no better than scratch on validation"),
        ({"accuracy": 0.001, "ci_low": -0.006, "ci_high": 0.008, "p_value": 0.9}, "no", "no better than scratch"),
        (UNDECIDED, "too few images", "too few to tell whether the teacher is better"),
        (ONLY_INTERVAL, "too few images", "too few to tell whether the teacher is better"),
        ({"accuracy": 0.005, "ci_low": 0.002, "ci_high": 0.008, "p_value": 0.01}, "yes", "is better than scratch"),
    ],
)
def test_teacher_can_teach_cannot_or_is_unknown_and_the_verdict_says_so(row: dict, answer: str, said: str):
    for students in (HELPED, HURT, UNDECIDED):
        metrics = {"distilled_minus_scratch": students, "teacher_minus_scratch": row}
        assert verdict.can_teach(metrics) == answer
        text = verdict.verdict(metrics)
        assert said in text.replace("this one is no better", "no better")
        assert ("teacher.fine_tune" in text) == (answer == "no")
    assert verdict.advantage(metrics).startswith("teacher minus scratch, on validation: ")


def test_hardest_classes_and_commonest_mistakes_of_a_case_worked_out_by_hand():
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    predicted = np.array([0, 0, 0, 2, 2, 0, 1, 1, 2])
    tables = page.by_class(labels, predicted, ["ant", "bee", "cow", "never seen"])
    hardest, mistakes = tables.values()
    assert hardest.to_dict("index") == {
        "bee": {"images": 2, "test accuracy": "0 %", "most often taken for": "ant"},
        "cow": {"images": 3, "test accuracy": "33 %", "most often taken for": "bee"},
        "ant": {"images": 4, "test accuracy": "75 %", "most often taken for": "cow"},
    }
    assert mistakes.reset_index().to_numpy().tolist() == [
        ["cow", "bee", 2, "67 %"],
        ["ant", "cow", 1, "25 %"],
        ["bee", "ant", 1, "50 %"],
        ["bee", "cow", 1, "50 %"],
    ]


def test_tables_of_a_hundred_classes_have_ten_rows():
    labels = np.arange(300) % 100
    tables = page.by_class(labels, (labels + (np.arange(300) < 150)) % 100, [f"class {n}" for n in range(100)])
    assert [len(table) for table in tables.values()] == [10, 10]


def test_without_a_mistake_there_is_no_table_of_mistakes():
    labels = np.array([0, 1, 2])
    assert len(page.by_class(labels, labels, ["ant", "bee", "cow"])) == 1


def test_disagreements_are_those_of_models_first_and_then_of_the_teacher_with_the_label():
    probabilities = pd.DataFrame(
        {
            "teacher": [0.9, 0.99, 0.2, 0.5, 0.1, 0.8],
            "student_scratch": [0.9, 0.01, 0.2, 0.5, 0.9, 0.8],
            "student_distilled": [0.8, 0.99, 0.1, 0.5, 0.1, 0.8],
        }
    )
    differently, against = galleries.contested(probabilities, count=2)
    assert differently.tolist() == [1, 4]
    assert against.tolist() == [2, 3]  # 4, which the teacher believes least, is shown already


def test_images_by_difficulty_are_easy_two_of_growing_doubt_and_hard():
    # The teacher gives these probabilities to class 0, by which 1 and 4 are labelled wrongly.
    chances = np.array([0.9, 0.97, 0.72, 0.999, 0.9999, 0.6])
    logits = np.log(np.stack([chances, 1 - chances], axis=1))
    shown = galleries.by_difficulty(np.array([0, 1, 0, 0, 1, 0]), logits)
    assert list(shown.items()) == [(3, "easy"), (0, "ambiguous"), (2, "ambiguous"), (4, "hard")]


def test_balanced_takes_the_classes_in_turn():
    labels = np.array([0, 0, 0, 1, 2, 1])
    assert labels[galleries.balanced(labels, 5)].tolist() == [0, 1, 2, 0, 1]
    assert sorted(galleries.balanced(labels, 99)) == list(range(6))


def test_comparison_has_each_model_with_its_numbers():
    table = page.comparison(metrics_of_a_run())
    assert list(table.index) == ["teacher", "scratch", "distilled"]
    assert set(page.IN_BRIEF) <= set(table.columns)
    assert table.loc["distilled"].to_dict() == {
        "test accuracy": "85.0 %",
        "95 % interval": "81.0 to 88.0 %",
        "balanced accuracy": "84.0 %",
        "ECE": "0.150",
        "parameters": "39,067",
        "MACs": "3.9 M",
        "cross-entropy": "0.300",
        "ROC AUC": "0.890",
        "agrees with teacher": "88.0 %",
    }
    assert table["agrees with teacher"].tolist() == ["", "82.0 %", "88.0 %"]


def test_exported_files_stand_by_size():
    table = page.exported(export_of_a_run())
    assert list(table.index) == ["student_float32.tflite", "student_float16.tflite", "student_int8.tflite"]
    assert table["size"].tolist() == ["165.5 kB", "90.0 kB", "61.0 kB"]
    assert table["test accuracy"].tolist() == ["85.0 %", "85.0 %", "84.0 %"]
    assert table["largest error of a probability"].tolist() == ["1.2e-06", "0.0004", "0.061"]


def test_table_in_markdown():
    table = pd.DataFrame({"size": ["1 kB", "20 kB"], "ECE": ["0.1", "0.2"]}, index=["a", "b"])
    assert page.markdown(table).splitlines() == [
        "| model | size | ECE |",
        "| --- | ---: | ---: |",
        "| a | 1 kB | 0.1 |",
        "| b | 20 kB | 0.2 |",
    ]


def test_page_holds_the_figures_in_order_with_captions_and_the_text_escaped(params: Params, tmp_path: Path):
    drawn = {name: Figure((2, 1)) for name in ("soft_labels", "objective")}
    for name, figure in drawn.items():
        style.save(figure, tmp_path / f"{name}.png")
    chosen = params.model_copy(update={"distill": changed(params.distill, temperature=3.5)})
    classes = {"Hardest": pd.DataFrame({"images": [3]}, index=["<ant>"])}
    text = page.html(chosen, metrics_of_a_run(), export_of_a_run(), "<cats> & dogs: -5 %", classes, drawn, tmp_path)
    images = re.findall('<img src="data:image/png;base64,(.+?)" width="230" alt="(.+?)">', text)
    assert [name for _, name in images] == list(drawn)
    for content, name in images:
        assert base64.b64decode(content) == (tmp_path / f"{name}.png").read_bytes()
    captions = re.findall("<figcaption>(.+?)</figcaption>", text, re.DOTALL)
    assert captions[0].endswith("This run distils at T = 3.5.")
    assert captions[1] == page.CAPTIONS["objective"]
    assert "&lt;cats&gt; &amp; dogs: \N{MINUS SIGN}5&nbsp;%." in text
    assert verdict.verdict(metrics_of_a_run()) in text
    assert "<h2>Hardest</h2>" in text
    assert "&lt;ant&gt;" in text
    assert "10.5 times the" in text
    assert "4.2 times its multiply-accumulates" in text
    (settings,) = re.findall("<pre>(.+?)</pre>", text, re.DOTALL)
    assert Params.model_validate(yaml.safe_load(html.unescape(settings))) == chosen


def write_run(records_directory: Path) -> Records:
    """A run in the current directory, of which only the report is missing; return its test split."""
    shutil.copytree(records_directory, "data/records")
    write_numbers_of_a_run()
    test, rng = Records("test"), np.random.default_rng(0)
    table = pd.DataFrame({"id": test.ids})
    for name in MODELS:
        table[f"{name}_logits"] = list(rng.normal(0, 2, (len(test), 3)).astype(np.float32))
    table.to_parquet(PREDICTIONS)
    image = keras.Input((TEACHER_SIDE, TEACHER_SIDE, 3))
    logits = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(image))
    save_network(keras.Model(image, {"logits": logits}), "models/teacher")
    return test


@pytest.fixture
def finished(records_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Records:
    """The test split of a run in the current directory, of which only the report is missing."""
    monkeypatch.chdir(tmp_path)
    return write_run(records_directory)


Shown = list[dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def written(
    params: Params, records_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, Shown]:
    """The folder of a run with its report, the line that the stage returned, and the views that it drew.

    These are the teacher's and the student's, by title.
    """
    folder, shown, draw = tmp_path_factory.mktemp("reported"), [], galleries.views

    def recorded(*views: dict[str, np.ndarray]) -> Figure:
        shown.extend(views)
        return draw(*views)

    with contextlib.chdir(folder), mock.patch.object(galleries, "views", recorded):
        write_run(records_directory)
        return folder, report.main(params), shown


@pytest.fixture
def reported(written: tuple[Path, str, Shown], monkeypatch: pytest.MonkeyPatch) -> tuple[str, Shown]:
    """`written`, in the current directory; tests leave it as it is."""
    folder, *returned = written
    monkeypatch.chdir(folder)
    return tuple(returned)


def test_report_has_a_caption_for_each_figure_and_the_public_one_shows_no_image(reported: tuple[str, Shown]):
    line, _ = reported
    assert page.CAPTIONS.keys() == {*CHARTS, *OF_IMAGES}
    assert set(OF_IMAGES) == report.GALLERIES
    assert {path.stem for path in report.FIGURES.iterdir()} == {*CHARTS, *OF_IMAGES}
    for path, names in ((report.REPORT, CHARTS + OF_IMAGES), (report.PUBLIC, CHARTS)):
        text = path.read_text(encoding="utf-8")
        assert re.findall('<img [^>]*alt="(.+?)"', text) == names
        assert text.count("data:image") == len(names)
        assert "test 1: 24 training and 6 test images of 3 classes." in text
    assert report.TABLE.read_text(encoding="utf-8") == page.markdown(page.comparison(metrics_of_a_run())[page.IN_BRIEF])
    metrics = metrics_of_a_run()
    assert max(map(len, line.splitlines())) <= report.TERMINAL
    for shown in (verdict.gain, verdict.advantage, verdict.verdict):
        assert shown(metrics) in " ".join(line.split())
    assert "test 1: 24 training" in line
    assert "85.0 %" in line
    assert line.endswith("report: plots/report.html")


def test_report_is_the_same_every_time(params: Params, reported: tuple[str, Shown]):
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in Path("plots").rglob("*") if path.is_file()}

    before = files()
    report.main(params)
    assert files() == before


def test_views_have_the_side_that_each_model_takes(params: Params, reported: tuple[str, Shown]):
    _, shown = reported
    for side, views in zip((TEACHER_SIDE, params.student.image_size), shown, strict=True):
        assert list(views) == ["plain", *(f"view {number}" for number in range(5))]
        assert {view.shape for view in views.values()} == {(side, side, 3)}


def test_mixed_view_is_shown_too_and_is_one_that_the_teacher_answers(params: Params, records: Records):
    views = changed(params.views, augment=params.views.augment.model_dump() | {"mix": 0.5})
    count, train = UNMIXED + 1, records
    budget = changed(params.budget, answered=count * len(train))
    shown = report._views(train, params.model_copy(update={"views": views, "budget": budget}), TEACHER_SIDE)
    answered = np.concatenate([*view_images(train, TEACHER_SIDE, views, count)])
    assert list(shown)[-1] == f"view {UNMIXED}, mixed"
    np.testing.assert_allclose(shown[f"view {UNMIXED}, mixed"], answered[UNMIXED * len(train)], atol=0.51)


def test_report_draws_the_objective_of_the_distilled_student(reported: tuple[str, Shown], tmp_path: Path):
    style.save(charts.objective(read_json("plots/history/student_distilled.json")), tmp_path / "objective.png")
    assert (report.FIGURES / "objective.png").read_bytes() == (tmp_path / "objective.png").read_bytes()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("plot", ["history", "reliability"])
def test_missing_rows_are_named(params: Params, finished: Records, plot: str, name: str):
    path = Path(f"plots/{plot}/{name}.json")
    path.unlink()
    with pytest.raises(InputError, match=f"^{path} is missing"):
        report.main(params)
    assert not report.FIGURES.exists()
    assert not report.REPORT.exists()


def test_predictions_of_other_images_are_refused(params: Params, finished: Records):
    table = pd.read_parquet(PREDICTIONS)
    table.iloc[::-1].to_parquet(PREDICTIONS)
    with pytest.raises(InputError, match=f"^{PREDICTIONS} is not about the images in data/records"):
        report.main(params)


def test_curves_of_one_report_of_history_are_drawn(tmp_path: Path):
    history = history_of_a_run({"hard": [0.7], "soft": [0.0], "features": [0.0]})
    style.save(charts.learning_curves(dict.fromkeys(MODELS, history)), tmp_path / "curves.png")
    style.save(charts.objective(history), tmp_path / "objective.png")

"""Figures show the numbers and images that they are given, whatever a user's matplotlibrc says."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from helpers import (
    export_of_a_run,
    histories_of_a_run,
    history_of_a_run,
    metrics_of_a_run,
    random_image,
    reliability_of_a_run,
)
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from scipy.special import softmax

from distillation.report import charts, galleries, style
from distillation.report.statistics import MODELS

IMAGES = np.stack([random_image(np.random.default_rng(number), 16) for number in range(8)])
LOGITS = np.random.default_rng(0).normal(0, 2, (3, 7))
PROBABILITIES = pd.DataFrame({name: [0.1 * place, 0.9 - 0.2 * place] for place, name in enumerate(MODELS)})
CONTESTED = {"Disputed": (IMAGES[:2], PROBABILITIES.assign(label=["ant", "bee"]))}

SMALL = IMAGES[2:4, ::2, ::2]
FIGURES = {
    "summary": lambda: charts.summary(metrics_of_a_run()),
    "learning_curves": lambda: charts.learning_curves(histories_of_a_run()),
    "objective": lambda: charts.objective(histories_of_a_run()["student_distilled"]),
    "cost": lambda: charts.cost(metrics_of_a_run(), export_of_a_run()),
    "reliability": lambda: charts.reliability(reliability_of_a_run(), metrics_of_a_run()),
    "montage": lambda: galleries.montage(IMAGES[:3], ["ant", "bee", "ant"], columns=2),
    "views": lambda: galleries.views(
        {"plain": IMAGES[0], "view 0": IMAGES[1]}, {"plain": SMALL[0], "view 0": SMALL[1]}
    ),
    "disagreements": lambda: galleries.disagreements(CONTESTED, columns=3),
    "soft_labels": lambda: galleries.soft_labels(
        IMAGES[:3], ["easy", "ambiguous", "hard"], LOGITS, np.array([0, 1, 6]), [*"abcdefg"]
    ),
}


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def bars(axes) -> list[tuple[float, str]]:
    """Width and colour of each bar, from the top."""
    return [(bar.get_width(), to_hex(bar.get_facecolor())) for bar in axes.patches]


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
@pytest.mark.filterwarnings("error")
def test_a_users_settings_change_no_byte(draw: Callable[[], Figure], tmp_path: Path):
    style.save(draw(), tmp_path / "plain.png")
    with matplotlib.rc_context({"axes.spines.top": True, "font.size": 30, "lines.linewidth": 9}):
        style.save(draw(), tmp_path / "users.png")
    assert (tmp_path / "users.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_summary_shows_each_accuracy_with_its_interval():
    (axes,) = charts.summary(metrics_of_a_run()).axes
    shown = [container for container in axes.containers if isinstance(container, ErrorbarContainer)]
    for (name, row), container in zip(((name, metrics_of_a_run()[name]) for name in MODELS), shown, strict=True):
        (point, _, (interval,)) = container
        assert point.get_xdata() == pytest.approx([100 * row["accuracy"]])
        ends = [100 * row[f"accuracy_ci_{end}"] for end in ("low", "high")]
        assert interval.get_segments()[0][:, 0] == pytest.approx(ends)
        assert point.get_color() == style.COLOURS[name]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["teacher", "scratch", "distilled"]
    assert [text.get_text() for text in axes.texts] == ["95.0", "80.0", "85.0"]
    low, high = axes.get_ylim()
    assert low > high  # the first model is on top


@pytest.mark.parametrize(("panel", "key", "scale"), [(0, "accuracy", 100), (1, "loss", 1)])
def test_learning_curves_show_both_students_and_the_end_of_the_teacher(panel: int, key: str, scale: int):
    histories = histories_of_a_run()
    for row in histories["student_distilled"]:  # so that the students differ
        row[f"train_{key}"] += 0.05
    histories["teacher"][-1][f"validation_{key}"] = 0.99
    axes = charts.learning_curves(histories).axes[panel]
    *curves, teacher = axes.lines
    shown = {line.get_label(): line for line in curves}
    assert list(shown) == [f"{name}, {split}" for name in ("scratch", "distilled") for split in ("train", "validation")]
    for name in ("student_scratch", "student_distilled"):
        for split in ("train", "validation"):
            line = shown[f"{MODELS[name]}, {split}"]
            assert line.get_xdata() == pytest.approx([320, 640, 960, 1280])
            assert line.get_ydata() == pytest.approx([scale * row[f"{split}_{key}"] for row in histories[name]])
    assert teacher.get_ydata() == pytest.approx(2 * [scale * 0.99])


def layers_of(figure: Figure) -> dict[str, np.ndarray]:
    """By name, lower and upper edge of each layer (2, points) of a stack."""
    (axes,) = figure.axes
    edges = {}
    for layer in axes.collections:
        corners = layer.get_paths()[0].vertices
        places = np.unique(corners[:, 0])
        of_place = [corners[corners[:, 0] == place, 1] for place in places]
        edges[layer.get_label()] = np.array([[y.min() for y in of_place], [y.max() for y in of_place]])
    return edges


def test_objective_is_the_stack_of_its_terms():
    terms = {"hard": [0.1, 0.08, 0.07, 0.06], "soft": [1.2, 0.8, 0.6, 0.5], "features": [0.4, 0.2, 0.1, 0.0]}
    figure = charts.objective(history_of_a_run(terms))
    edges = layers_of(figure)
    assert list(edges) == ["hard", "soft", "features"]
    below = np.zeros(4)
    for name, values in terms.items():
        assert edges[name] == pytest.approx(np.array([below, below + values]))
        below = below + values
    assert legend(figure) == ["features", "soft", "hard"]  # from the top, as they are stacked
    (axes,) = figure.axes
    assert axes.get_xlim() == (320, 1280)
    assert axes.get_ylim()[0] == 0
    assert len({to_hex(layer.get_facecolor()[0]) for layer in axes.collections}) == 3


def test_objective_is_the_same_after_a_file_of_history(tmp_path: Path):
    """The file sorts its keys."""
    rows = histories_of_a_run()["student_distilled"]
    edges = layers_of(charts.objective([dict(sorted(row.items())) for row in rows]))
    assert set(edges) == {"hard", "soft", "features"}
    total = [sum(value for key, value in row.items() if key.startswith("objective_")) for row in rows]
    assert np.max([upper for _, upper in edges.values()], axis=0) == pytest.approx(total)


@pytest.mark.parametrize("left_out", [["features"], ["soft", "features"], ["hard"]])
def test_terms_that_are_always_zero_are_left_out_of_the_objective(left_out: list[str]):
    terms = {"hard": [0.1, 0.08], "soft": [1.2, 0.8], "features": [0.4, 0.2]} | {name: [0.0, 0.0] for name in left_out}
    figure = charts.objective(history_of_a_run(terms))
    assert list(layers_of(figure)) == [name for name in terms if name not in left_out]
    assert legend(figure) == list(layers_of(figure))[::-1]


def test_term_that_fades_stays_in_the_objective():
    figure = charts.objective(history_of_a_run({"hard": [0.5, 0.4], "features": [0.3, 0.0]}))
    assert list(layers_of(figure)) == ["hard", "features"]


@pytest.mark.filterwarnings("error")
def test_run_of_one_report_has_its_figures(tmp_path: Path):
    rows = history_of_a_run({"hard": [0.5], "soft": [1.0]})
    style.save(charts.objective(rows), tmp_path / "objective.png")
    style.save(charts.learning_curves(dict.fromkeys(MODELS, rows)), tmp_path / "learning_curves.png")


def test_cost_shows_accuracy_against_parameters_macs_and_bytes():
    metrics, export = metrics_of_a_run(), export_of_a_run()
    figure = charts.cost(metrics, export)
    *panels, files = figure.axes
    for axes, key in zip(panels, ("parameters", "macs"), strict=True):
        assert axes.get_xscale() == "log"
        for name, (point, _, (interval,)) in zip(MODELS, axes.containers, strict=True):
            row = metrics[name]
            assert point.get_xdata() == pytest.approx([row[key]], rel=0.05)  # the students are drawn side by side
            assert point.get_ydata() == pytest.approx([100 * row["accuracy"]])
            ends = [100 * row[f"accuracy_ci_{end}"] for end in ("low", "high")]
            assert interval.get_segments()[0][:, 1] == pytest.approx(ends)
        assert axes.containers[1][0].get_xdata() < axes.containers[2][0].get_xdata()
    assert [line.get_xdata()[0] for line in files.lines] == [row["bytes"] for row in export.values()]
    assert [line.get_ydata()[0] for line in files.lines] == pytest.approx(
        [100 * row["accuracy"] for row in export.values()]
    )
    assert [text.get_text() for text in files.texts] == list(export)
    assert legend(figure) == ["teacher", "scratch", "distilled"]


def test_reliability_shows_accuracy_against_confidence_in_dots_that_grow_with_their_share():
    rows = reliability_of_a_run()
    rows["student_scratch"] = [{"confidence": 0.7, "accuracy": 0.4, "share": 1.0}]
    panels = charts.reliability(rows, metrics_of_a_run()).axes
    for axes, name in zip(panels, MODELS, strict=True):
        (dots,) = axes.collections
        expected = [(100 * row["confidence"], 100 * row["accuracy"]) for row in rows[name]]
        assert np.asarray(dots.get_offsets()) == pytest.approx(np.array(expected))
        assert to_hex(dots.get_facecolor()[0]) == style.COLOURS[name].lower()
        shares = [row["share"] for row in rows[name]]
        assert list(np.argsort(dots.get_sizes())) == list(np.argsort(shares))
        assert len(dots.get_sizes()) == len(shares)
        assert axes.get_title() == f"{MODELS[name]}: ECE {metrics_of_a_run()[name]['ece']:.3f}"
        assert list(axes.lines[0].get_xdata()) == list(axes.lines[0].get_ydata())  # the diagonal


def test_montage_shows_each_image_under_its_name():
    panels = galleries.montage(IMAGES[:3], ["ant", "long_name_with_words", "cow"], columns=2).axes
    assert len(panels) == 4
    assert [axes.get_title() for axes in panels] == ["ant", "long name with\nwords", "cow", ""]
    for axes, image in zip(panels[:3], IMAGES, strict=False):
        np.testing.assert_array_equal(axes.images[0].get_array(), image)
    assert not panels[3].images


def test_views_stand_above_each_other_pixel_by_pixel():
    titles = ["plain", "view 0"]
    panels = galleries.views(*(dict(zip(titles, images, strict=True)) for images in (IMAGES[:2], SMALL))).axes
    for axes, image in zip(panels, [*IMAGES[:2], *SMALL], strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), image)
        assert axes.images[0].get_interpolation() == "nearest"
    assert [axes.get_title() for axes in panels] == ["plain", "view 0", "", ""]
    assert [axes.get_ylabel() for axes in panels] == ["teacher, 16 px", "", "student, 8 px", ""]


def test_disagreements_show_what_each_model_gives_to_the_label():
    figure = galleries.disagreements(CONTESTED, columns=3)
    (part,) = figure.subfigs
    images, charts_below = part.axes[:3], part.axes[3:]
    assert part.get_suptitle() == "Disputed"
    assert [axes.get_title() for axes in images] == ["label: ant", "label: bee", ""]
    for number in range(2):
        np.testing.assert_array_equal(images[number].images[0].get_array(), IMAGES[number])
        widths, colours = zip(*bars(charts_below[number]), strict=True)
        assert widths == pytest.approx(PROBABILITIES.iloc[number].tolist())
        assert list(colours) == [colour.lower() for colour in style.COLOURS.values()]
    assert not images[2].images
    assert not bars(charts_below[2])


def test_soft_labels_are_those_of_the_temperatures_and_the_label_is_dark():
    labels = np.array([0, 1, 6])
    panels = FIGURES["soft_labels"]().axes
    columns = 1 + len(galleries.TEMPERATURES)
    assert [axes.get_title() for axes in panels[1:columns]] == ["T = 1", "T = 2", "T = 4", "T = 8"]
    for row, (kind, label) in enumerate(zip(("easy", "ambiguous", "hard"), labels, strict=True)):
        image, *of_temperatures = panels[row * columns : (row + 1) * columns]
        assert image.get_title() == f"{kind}: {'abcdefg'[label]}"
        np.testing.assert_array_equal(image.images[0].get_array(), IMAGES[row])
        likeliest = sorted(np.argsort(-LOGITS[row])[: galleries.CLASSES_SHOWN])
        names = [text.get_text() for text in of_temperatures[0].get_yticklabels()]
        assert names == ["abcdefg"[number] for number in likeliest]
        for axes, temperature in zip(of_temperatures, galleries.TEMPERATURES, strict=True):
            widths, colours = zip(*bars(axes), strict=True)
            assert widths == pytest.approx(softmax(LOGITS[row] / temperature)[likeliest].tolist())
            assert [colour == "#000000" for colour in colours] == [number == label for number in likeliest]

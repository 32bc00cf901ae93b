"""Figures show the numbers that they are given, whatever a user's matplotlibrc says."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure

from distillation import figures

ACCURACIES = [{"teacher": 0.98, "scratch": 0.5 + 0.1 * step, "distilled": 0.9 + 0.01 * step} for step in range(3)]
STUDIES = {
    figures.epoch_curve: [{"epochs": epochs} for epochs in (4, 8, 16)],
    figures.label_curve: [{"labeled_fraction": share} for share in (0.01, 0.1, 1)],
    figures.sweep: [{"alpha": alpha, "temperature": 2} for alpha in (0, 0.5, 1)],
}


def drawn(draw: Callable[[list[dict]], Figure]) -> Figure:
    return draw([setting | accuracies for setting, accuracies in zip(STUDIES[draw], ACCURACIES, strict=True)])


@pytest.mark.parametrize(
    ("draw", "ticks"), [(figures.epoch_curve, ["4", "8", "16"]), (figures.label_curve, ["1", "10", "100"])]
)
def test_curves_show_the_accuracy_of_each_model(draw: Callable, ticks: list[str]):
    (axes,) = drawn(draw).axes
    shown = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert shown.keys() == ACCURACIES[0].keys()
    for model, values in shown.items():
        assert values == pytest.approx([100 * row[model] for row in ACCURACIES])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ticks


@pytest.mark.parametrize("draw", STUDIES, ids=lambda draw: draw.__name__)
def test_a_users_settings_change_no_byte(draw: Callable, tmp_path: Path):
    figures.save(drawn(draw), tmp_path / "plain.png")
    with matplotlib.rc_context({"axes.spines.top": True, "font.size": 30, "lines.linewidth": 9}):
        figures.save(drawn(draw), tmp_path / "users.png")
    assert (tmp_path / "users.png").read_bytes() == (tmp_path / "plain.png").read_bytes()

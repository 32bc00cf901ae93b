"""The style of every figure: the report's, the studies' and the benchmarks'.

Every model keeps one colour (Okabe and Ito's, safe for the colour-blind and apart in grey) and one
marker throughout. `save` writes equal bytes for equal data.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, Formatter, LogLocator, NullFormatter

COLOURS = {"teacher": "#000000", "student_scratch": "#E69F00", "student_distilled": "#0072B2"}
MARKERS = {"teacher": "D", "student_scratch": "o", "student_distilled": "s"}
GREY = "#999999"
COLUMN, PAGE = 3.4, 7.0  # widths in inches: one column, the page
DPI = 160

# From Matplotlib's own defaults: a user's matplotlibrc must not change the bytes.
styled = style.context(
    [
        "default",
        {
            "font.size": 8,
            "text.parse_math": False,  # class names may hold dollar signs
            "axes.titlesize": 8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.6,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "legend.frameon": False,
            "lines.linewidth": 1.4,
            "lines.markersize": 4,
            "figure.constrained_layout.use": True,
        },
    ]
)


@styled
def save(figure: Figure, path: Path) -> None:
    """Write `figure` as PNG without anything in it that would differ between equal runs."""
    figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None}, pil_kwargs={"optimize": True})


def rows_of_accuracy(axes: Axes, models: Collection[str]) -> None:
    """A row per model, the first on top, above an axis of test accuracy."""
    axes.set(xlabel="test accuracy (%)", ylim=(len(models) - 0.6, -0.8))
    axes.set_yticks(range(len(models)), models)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)


def log_axis(axes: Axes, values: Sequence[float], label: str, formatter: Formatter | None = None) -> None:
    """Make the x axis logarithmic around `values`, with few, readable ticks."""
    axes.set(xscale="log", xlim=(min(values) / 2, max(values) * 2), xlabel=label)
    decades = np.log10(max(values) / min(values))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1 else (1, 3)))
    axes.xaxis.set_major_formatter(formatter or EngFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())

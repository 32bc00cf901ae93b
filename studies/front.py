"""Name the best student for a budget, and export it: `python -m studies.front --max-kilobytes 100`.

`make front` has trained and measured the students (`studies/ladder.py`); `results/NAME_front/front.json` holds what
came of it. Of the files within all limits the one with the best validation accuracy is taken, or, where one asks for
an accuracy (`--within`), the smallest. All choosing is done on validation; what is said of a file was measured on test.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, StrMethodFormatter

from distillation.errors import InputError, reason
from distillation.files import read_json, replacing
from distillation.report.style import COLOURS, GREY, MARKERS, PAGE, log_axis, styled

OWN = "preset"  # the name of the preset's own student
VARIANTS = ("float32", "int8")
COSTS = {"bytes": "bytes of the file", "milliseconds": "milliseconds for an image on one thread"}  # by key of a point
FAMILY_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


@dataclass(frozen=True)
class Limit:
    """What a budget may limit: `value`, of a point and the teacher, must not be above the limit."""

    value: Callable[[dict, dict], float]
    wanted: str
    help: str


LIMITS = {  # by name of the option
    "max_kilobytes": Limit(
        lambda point, teacher: point["bytes"] / 1000, "of {:g} kB or less", "size of the file, in units of 1000 bytes"
    ),
    "max_milliseconds": Limit(
        lambda point, teacher: point["milliseconds"],
        "of {:g} ms or less",
        "time for an image on one thread, on the machine that measured it",
    ),
    "within": Limit(
        # Rounded: 97 % minus 94 % is a little more than 3 points in binary.
        lambda point, teacher: round(100 * (teacher["validation_accuracy"] - point["validation_accuracy_mean"]), 6),
        "within {:g} points of the teacher on validation",
        "percentage points of accuracy below the teacher",
    ),
}
POINTS_LIKE_TWICE = 10  # so many points of accuracy too few are as far from a budget as twice its bytes


def main() -> None:
    options = _options()
    try:
        front = read_front(record(options.preset))
        budget = {name: getattr(options, name) for name in LIMITS if getattr(options, name) is not None}
        if not budget:
            print(table(front))
            return
        point, met = choose(front, budget)
        print(sentence(front, budget, point, met))
        if not met:
            sys.exit(1)
        target = options.output or record(options.preset) / "export"
        export(finished(options.preset) / point["best_seed"], point["made_of"], target)
        print(f"-> {target}/student_{point['variant']}.tflite")
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: the student cannot be exported ({reason(error)})")


def record(preset: str) -> Path:
    """The folder of the preset's front."""
    return Path(f"results/{preset}_front")


def finished(preset: str) -> Path:
    """Where `make front` keeps its students, a folder each, on the machine that trained them."""
    return Path(f".checkpoints/{preset}_front_students")


def read_front(folder: Path) -> dict:
    """The content of `front.json`; `InputError` where there is none."""
    if not (folder / "front.json").exists():
        raise InputError(f"there is no {folder}/front.json: run `make front NAME=PRESET`, or name another preset")
    return read_json(folder / "front.json")


def choose(front: dict, budget: dict[str, float]) -> tuple[dict, bool]:
    """The best point within `budget` (limits by their names in `LIMITS`), and True; else the nearest, and False."""

    def excess(point: dict) -> float:
        total = 0.0
        for name, limit in budget.items():
            unit = POINTS_LIKE_TWICE if name == "within" else limit
            total += max(0.0, LIMITS[name].value(point, front["teacher"]) - limit) / unit
        return total

    within = [point for point in front["points"] if not excess(point)]
    if not within:
        return min(front["points"], key=lambda point: (excess(point), -point["validation_accuracy_mean"])), False
    if "within" in budget:
        return min(within, key=lambda point: (point["bytes"], -point["validation_accuracy_mean"])), True
    return min(within, key=lambda point: (-point["validation_accuracy_mean"], point["bytes"])), True


def pareto(points: Sequence[dict], cost: str) -> list[int]:
    """Numbers of the points that no other beats in `cost` and validation accuracy, from the cheapest on."""
    best, numbers = -1.0, []
    order = sorted(range(len(points)), key=lambda n: (points[n][cost], -points[n]["validation_accuracy_mean"]))
    for number in order:
        if points[number]["validation_accuracy_mean"] > best:
            best = points[number]["validation_accuracy_mean"]
            numbers.append(number)
    return numbers


def dominated(points: Sequence[dict], reference: dict) -> list[str]:
    """Names and variants of the points on the front that `reference` beats: neither worse, larger nor slower."""
    return [
        f"{point['name']} {point['variant']}"
        for point in points
        if point["on_front"]
        and all(reference[cost] <= point[cost] for cost in COSTS)
        and reference["validation_accuracy"] >= point["validation_accuracy_mean"]
    ]


def sentence(front: dict, budget: dict[str, float], point: dict, met: bool) -> str:
    """What to take, what it costs and how good it is; or what comes nearest."""
    wanted = " and ".join(LIMITS[name].wanted.format(limit) for name, limit in budget.items())
    name = f"{point['name']} in {point['variant']}"
    take = f"For a student {wanted}, take {name}" if met else f"There is no student {wanted}; the nearest is {name}"
    below = 100 * (front["teacher"]["accuracy"] - point["accuracy_mean"])
    return (
        f"{take}: {point['bytes'] / 1000:.1f} kB, {point['milliseconds']:.2f} ms, "
        f"{100 * point['accuracy_mean']:.1f} % of the test images right "
        f"({100 * point['accuracy_ci_low']:.1f} to {100 * point['accuracy_ci_high']:.1f} %), "
        f"{abs(below):.1f} points {'below' if below >= 0 else 'above'} the teacher there "
        f"(from scratch: {100 * point['scratch_accuracy_mean']:.1f} %)."
    )


def export(folder: Path, made_of: str, target: Path) -> None:
    """Copy the files of a finished student, with their card, to `target`.

    Args:
        folder: what `make front` kept of the student.
        made_of: that of its `run.json`.
        target: is replaced if it holds what was exported before.

    Raises:
        InputError: where the files are not here, were made anew since, or would replace other files.
    """
    if not (folder / "export").is_dir():
        raise InputError(f"its files are not here ({folder}), only where `make front` ran: run it here to make them")
    if read_json(folder / "run.json")["made_of"] != made_of:
        raise InputError(f"{folder} holds another student than front.json describes: run `make front` to its end")
    if target.exists() and not (target / "preprocessing.json").exists():
        raise InputError(f"{target} holds something else, not an exported student: name a folder that does not exist")
    with replacing(target) as temporary:
        shutil.copytree(folder / "export", temporary)


def table(front: dict) -> str:
    """The points as Markdown, the smallest first; a star marks those on one of the two fronts."""
    teacher, images = front["teacher"], front["images"]
    lines = [
        "| student | network | file | kB | ms | MiB | parameters | MACs | validation | test | from scratch | front |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | :-: |",
    ]
    for point in sorted(front["points"], key=lambda point: point["bytes"]):
        low, mean, high = (100 * point[f"accuracy_{key}"] for key in ("ci_low", "mean", "ci_high"))
        lines.append(
            f"| {point['name']} | {point['network']} | {point['variant']} | {_costs(point)} "
            f"| {100 * point['validation_accuracy_mean']:.1f} % | {mean:.1f} ({low:.1f} to {high:.1f}) % "
            f"| {100 * point['scratch_accuracy_mean']:.1f} % | {'*' if point['on_front'] else ''} |"
        )
    for row in front["references"]:
        lines.append(
            f"| {row['name']} | reference | {row['variant']} | {_costs(row)} "
            f"| {100 * row['validation_accuracy']:.1f} % | {100 * row['accuracy']:.1f} % "
            f"| | {'dominates ' + ', '.join(row['dominates']) if row['dominates'] else ''} |"
        )
    lines += [
        f"| teacher | | float32 | {_costs(teacher)} | {100 * teacher['validation_accuracy']:.1f} % "
        f"| {100 * teacher['accuracy']:.1f} % | | |",
        "",
        f"{images['validation']:,} validation and {images['test']:,} test images; seeds: {front['points'][0]['n']}; "
        f"each student shown {front['shown']:,} images. One thread of {front['cpu']}.",
    ]
    return "\n".join(lines)


def _costs(row: dict) -> str:
    size = f"| {row['parameters']:,} | {row['macs'] / 1e6:.1f} M"
    if "bytes" not in row:  # a teacher that LiteRT can't take
        return f" | | {size}"
    return f"{row['bytes'] / 1000:,.1f} | {row['milliseconds']:.2f} | {row['peak_mib']:.0f} {size}"


@styled
def draw(front: dict) -> Figure:
    """Test accuracy against bytes and against latency; a line joins those that validation finds on the front."""
    points, teacher = front["points"], front["teacher"]
    networks = list(dict.fromkeys(point["network"] for point in points))
    colours = {name: FAMILY_COLOURS[number % len(FAMILY_COLOURS)] for number, name in enumerate(networks)}
    figure = Figure((PAGE, 3.2))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (cost, label) in zip(panels, COSTS.items(), strict=True):
        on_front = [points[number] for number in pareto(points, cost)]
        axes.plot([p[cost] for p in on_front], [100 * p["accuracy_mean"] for p in on_front], color=GREY, zorder=1)
        for point in points:
            accuracy, colour = 100 * point["accuracy_mean"], colours[point["network"]]
            filled = colour if point["variant"] == "int8" else "white"
            axes.plot(point[cost], accuracy, "s", color=colour, markerfacecolor=filled)
            if point["name"] == OWN:
                axes.plot(point[cost], accuracy, "o", color="black", markerfacecolor="none", markersize=9)
        for row in front["references"]:
            filled = "black" if row["variant"] == "int8" else "white"
            axes.plot(row[cost], 100 * row["accuracy"], "^", color="black", markerfacecolor=filled)
        costs = [row[cost] for row in (*points, *front["references"])]
        if cost in teacher:  # else LiteRT can't take it
            axes.plot(teacher[cost], 100 * teacher["accuracy"], MARKERS["teacher"], color=COLOURS["teacher"])
            costs.append(teacher[cost])
        formatter = EngFormatter("B") if cost == "bytes" else StrMethodFormatter("{x:g}")
        log_axis(axes, costs, label, formatter)
    panels[0].set_ylabel("test accuracy (%)")
    marks = [Line2D([], [], marker="s", linestyle="", color=colours[name], label=name) for name in networks]
    marks += [
        Line2D([], [], marker="s", linestyle="", color=GREY, label="int8"),
        Line2D([], [], marker="s", linestyle="", color=GREY, markerfacecolor="white", label="float32"),
        Line2D([], [], marker="o", linestyle="", color="black", markerfacecolor="none", label="the preset's own"),
        Line2D([], [], marker="^", linestyle="", color="black", label="pretrained, for comparison"),
        Line2D([], [], color=GREY, label="front, by validation"),
        Line2D([], [], marker=MARKERS["teacher"], linestyle="", color=COLOURS["teacher"], label="teacher, float32"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=4)
    return figure


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m studies.front", description=__doc__.partition(":")[0])
    parser.add_argument("preset", nargs="?", default="cats_vs_dogs", help="whose front (default: %(default)s)")
    for name, limit in LIMITS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=_positive, metavar="N", help=limit.help)
    parser.add_argument("--output", type=Path, help="folder to export to (default: results/PRESET_front/export)")
    return parser.parse_args()


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}, should be a number above 0")
    return value


if __name__ == "__main__":
    main()

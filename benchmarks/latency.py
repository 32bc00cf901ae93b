"""How much faster is the published student than its teacher, one image at a time on one thread?

The files of `results/cats_vs_dogs/export` against the teacher at the preset's resolution, all in
LiteRT, in the same rounds. `latency`: milliseconds for one image on one thread (median and
quartiles), images a second in batches of 32, as the stages answer them, memory of a process that does nothing
but load the file and answer one image, and size of the file. `latency.png` shows what that buys.

Bound by arithmetic: the teacher has twelve times the student's multiply-accumulates.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from benchmarks._timing import ROOT, answer, interleaved, record
from benchmarks._workspace import PRESET, random_batch, random_teacher
from distillation.files import read_json, replacing
from distillation.inference.forward import BATCH, forward_pass, to_litert
from distillation.inference.litert import Network
from distillation.preset import complete
from distillation.report.style import COLOURS, COLUMN, MARKERS, log_axis, save, styled

EXPORT = ROOT / "results/cats_vs_dogs/export"
FIGURE = ROOT / "benchmarks/latency.png"
ALONE = """
import runpy, sys
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
interpreter.invoke()
print(runpy.run_path("benchmarks/_timing.py")["peak_mib"]())  # the package imports TensorFlow
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        teacher = Path(directory, "teacher.tflite")
        teacher.write_bytes(to_litert(random_teacher(complete(PRESET))))
        files = {
            "teacher float32": teacher,
            "student float32": EXPORT / "student_float32.tflite",
            "student int8": EXPORT / "student_int8.tflite",
        }
        one, many = (
            interleaved(*map(passes, files.values()), rounds=15, calls=calls, untimed=2) / calls
            for passes, calls in ((one_image, 20), (_batch, 2))
        )
        rows = [
            {
                "network": name,
                "milliseconds": 1e3 * np.median(one[:, column]),
                "low": 1e3 * np.quantile(one[:, column], 0.25),
                "high": 1e3 * np.quantile(one[:, column], 0.75),
                "images_per_second": BATCH / np.median(many[:, column]),
                "peak_mib": peak_alone(file),
                "bytes": file.stat().st_size,
            }
            for column, (name, file) in enumerate(files.items())
        ]
    evaluated, exported = (read_json(EXPORT.with_name("metrics") / f"{name}.json") for name in ("evaluate", "export"))
    accuracies = {"teacher float32": evaluated["teacher"]["accuracy"]}
    accuracies |= {f"student {variant}": row["accuracy"] for variant, row in exported.items()}
    with replacing(FIGURE) as temporary:
        save(draw(rows, accuracies), temporary)
    question, *_ = __doc__.splitlines()
    record(
        latency=rows,
        **{
            f"{name.replace(' ', '_')}_speedup_over_teacher": answer(
                f"{question} ({name})", one[:, 0] / one[:, column], ">= 10"
            )
            for column, name in enumerate(files)
            if column
        },
    )


@styled
def draw(rows: list[dict], accuracies: dict[str, float]) -> Figure:
    """Test accuracy against the time that one image takes on one thread.

    Args:
        rows: `latency` in `benchmarks/results.json`.
        accuracies: 0..1, by the `network` of the rows.
    """
    figure = Figure((COLUMN, 2.2))
    axes = figure.subplots()
    for row in rows:
        network, milliseconds = row["network"], row["milliseconds"]
        name = "teacher" if network.startswith("teacher") else "student_distilled"
        accuracy = 100 * accuracies[network]
        axes.plot(milliseconds, accuracy, MARKERS[name], color=COLOURS[name])
        text = f"{network.replace('student', 'distilled')}\n{milliseconds:.2f} ms"
        above = network.endswith("float32")  # int8 stands near it
        place = {"xytext": (0, 5 if above else -5), "va": "bottom" if above else "top"}
        axes.annotate(text, (milliseconds, accuracy), textcoords="offset points", ha="center", size=7, **place)
    times = [row["milliseconds"] for row in rows]
    log_axis(axes, times, "milliseconds for one image on one thread", StrMethodFormatter("{x:g}"))
    axes.set(ylabel="test accuracy (%)")
    axes.margins(y=0.4)
    return figure


def one_image(file: Path) -> Callable[[], object]:
    """What answers one random image with a LiteRT file, on one thread."""
    interpreter = Interpreter(str(file), num_threads=1)
    interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    image = np.random.default_rng(0).integers(0, 256, source["shape"]).astype(source["dtype"])
    interpreter.set_tensor(source["index"], image)
    return interpreter.invoke


def _batch(file: Path) -> Callable[[], object]:
    content = file.read_bytes()
    (size, _, _) = Network(content).input_shape
    return partial(forward_pass(content), random_batch(BATCH, size))


def peak_alone(file: Path) -> float:
    """Largest memory, in MiB, of a process that loads a LiteRT file and answers one image."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE, file.absolute()], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


if __name__ == "__main__":
    main()

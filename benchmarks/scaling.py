"""Do memory and time grow in line with the number of images, and no faster?

`python -m benchmarks.scaling 10000 1000000` asks it of a million, with 20 GB of disk. A data set of drawn JPEGs of 112
px, each different, goes through the real stages, each in a process of its own: a row for each number of images and
stage. `peak_mib` is the largest memory of the process, `seconds` its whole time, of which `us_an_image` leaves out what
the smallest data set takes. Teacher and student are small, so that the images are what takes the time; the budget is
one view of each training image, and as many images shown as there are in all.

Decoded images stay in memory up to 2.5 GiB (`IN_MEMORY` of distillation/training/batches.py): those of 10,000 do, those
of 100,000 don't.
"""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from benchmarks._timing import ROOT, record
from benchmarks._workspace import PRESET
from distillation.params import Params
from distillation.preset import complete, write_params

SIZES = (10_000, 100_000)
SIDE = 112
STAGES = ("prepare", "train_teacher", "train_scratch", "cache_teacher_logits", "distill", "evaluate")
LINKED = ("dvc.yaml", "distillation", "stages", "data/class_names.txt", "data/unlabeled", "models/README.md")
MEASURED = """
import runpy, sys
from benchmarks._timing import peak_mib
runpy.run_module(f"stages.{sys.argv[1]}", run_name="__main__")
print(peak_mib())
"""
BLOCK = 1000  # images that share a random generator


def main() -> None:
    tfds.disable_progress_bar()
    sizes = [int(size) for size in sys.argv[1:]] or SIZES
    rows = [row for images in sizes for row in measure(images)]
    base = {row["stage"]: row["seconds"] for row in rows if row["images"] == sizes[0]}
    for row in rows:
        if row["images"] > sizes[0]:
            row["us_an_image"] = 1e6 * (row["seconds"] - base[row["stage"]]) / (row["images"] - sizes[0])
    record(scaling=rows)


def measure(images: int) -> list[dict[str, object]]:
    """A row for each stage, on `images` images."""
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        for name in LINKED:
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).symlink_to(ROOT / name)
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS would tell of a download
            Drawn(images, data_dir="tensorflow_datasets").download_and_prepare()
        write_params(_params(images), Path("params.yaml"))
        print(f"{images:,} images", flush=True)
        return [{"images": images, "stage": stage, **run(stage)} for stage in STAGES]


def run(stage: str) -> dict[str, float]:
    """Peak memory (MiB) and seconds of one stage in the working directory."""
    environment = os.environ | {"TFDS_DATA_DIR": "tensorflow_datasets", "CI": "1", "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURED, stage], env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"error: {stage} failed")
    peak, seconds = float(done.stdout.split()[-1]), time.perf_counter() - start
    print(f"  {stage}: {peak:,.0f} MiB, {seconds:,.0f} s", flush=True)  # what a killed benchmark has found is known
    return {"peak_mib": peak, "seconds": seconds}


class Drawn(tfds.core.GeneratorBasedBuilder):
    """Random images as smooth as photographs, of two classes that look alike."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, images: int, **options):
        self._images = images
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(SIDE, SIDE, 3), encoding_format="jpeg")
        features = tfds.features.FeaturesDict({"image": image, "label": tfds.features.ClassLabel(num_classes=2)})
        return tfds.core.DatasetInfo(
            builder=self, features=features, supervised_keys=("image", "label"), disable_shuffling=True
        )

    def _split_generators(self, _: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        for number in range(self._images):
            block, place = divmod(number, BLOCK)
            if place == 0:
                coarse = np.random.default_rng(block).integers(0, 256, (BLOCK, SIDE // 16, SIDE // 16, 3), np.uint8)
            file = io.BytesIO()
            Image.fromarray(coarse[place]).resize((SIDE, SIDE)).save(file, "JPEG", quality=80)
            file.seek(0)
            yield number, {"image": file, "label": number % 2}


def _params(images: int) -> Params:
    values = complete(PRESET).model_dump()
    values["data"] |= {"name": "drawn", "image_size": SIDE}
    values["budget"] = {"shown": images, "answered": images, "teacher": 2000}
    values["teacher"] |= {"weights": None, "width": 0.35, "image_size": 32}
    values["student"] |= {"image_size": 32, "channels": [16, 16]}
    values["distill"] |= {"feature_channels": 8}
    return Params.model_validate(values)


if __name__ == "__main__":
    main()

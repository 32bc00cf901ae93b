"""What fine-tuning brings where images are unlike ImageNet's: `python -m studies.fine_tune blurred --images 1000`.

Makes a stand-in for such images out of a data set of TensorFlow Datasets, in a folder that goes away again, and runs
`prepare` and `train_teacher` on it with the settings of presets/photographs.yaml. Prints one line: the validation
accuracy with the backbone frozen, and fine-tuned. docs/teachers.md has what came of it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import stages  # noqa: F401  imports TensorFlow, and keeps its greeting from the terminal

# isort: split
import tensorflow_datasets as tfds
import yaml
from PIL import Image

from distillation.errors import InputError
from distillation.files import read_json
from distillation.params import load_params
from distillation.preset import complete
from stages import prepare, train_teacher

VALIDATION = 1000  # images
TEACHER = ("fine_tune", "learning_rate", "width", "image_size")  # parameters that options set
STAND_INS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "sharp": lambda image: image,
    "blurred": lambda image: image.resize((32, 32)).resize(image.size),
    "grey": lambda image: image.convert("L"),
}


def write_stand_in(folder: Path, stand_in: str, name: str, images: int) -> None:
    """Write the first of `name`'s training images to `folder/train/CLASS`, those after them to validation and test."""
    splits = {"train": images, "validation": VALIDATION, "test": 100}
    rows = iter(tfds.as_numpy(tfds.load(name, split="train", shuffle_files=False)))
    for split, count in splits.items():
        for number in range(count):
            row = next(rows, None)
            if row is None:
                raise InputError(f"{name} has fewer than {sum(splits.values()):,} training images: lower --images")
            path = folder / split / f"{row['label']:03}" / f"{number:06}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            STAND_INS[stand_in](Image.fromarray(row["image"].squeeze())).save(path)  # of grey ones (height, width, 1)


def main() -> None:
    try:
        print(run(_options()))
    except InputError as error:
        sys.exit(f"error: {error}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m studies.fine_tune", description=__doc__.partition("\n")[0])
    parser.add_argument("stand_in", choices=STAND_INS)
    parser.add_argument("--data", default="imagenette/160px-v2", help="data set of TensorFlow Datasets (%(default)s)")
    parser.add_argument("--images", type=int, default=1000, help="to train on (%(default)s)")
    parser.add_argument("--fine-tune", type=int, default=12_500, help="teacher.fine_tune (%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=0.0002, help="teacher.learning_rate (%(default)s)")
    parser.add_argument("--width", type=float, default=1.0, help="teacher.width (%(default)s)")
    parser.add_argument("--image-size", type=int, default=224, help="teacher.image_size (%(default)s)")
    options = parser.parse_args()
    if options.fine_tune < 1:
        parser.error("--fine-tune should be at least 1")
    return options


def run(options: argparse.Namespace) -> str:
    """Make the stand-in, run the two stages on it, and return the line."""
    values = complete("photographs").model_dump()
    values["data"] |= {"name": "folder", "folder": "images"}
    values["budget"]["teacher"] = min(values["budget"]["teacher"], 2 * options.images)
    values["teacher"] |= {name: getattr(options, name) for name in TEACHER}
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["git", "clone", "--quiet", ".", directory], check=True)
        os.chdir(directory)
        Path("params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        write_stand_in(Path("images"), options.stand_in, options.data, options.images)
        params = load_params()
        prepare.main(params)
        train_teacher.main(params)
        metrics = read_json("metrics/teacher.json")
    frozen, tuned = (metrics[f"{name}_validation_accuracy"] for name in ("frozen", "fine_tuned"))
    return f"{' '.join(sys.argv[1:])}: frozen {frozen:.3f}, fine-tuned {tuned:.3f}"


if __name__ == "__main__":
    main()

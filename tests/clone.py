"""A clone of this repository with data so small that its whole pipeline runs in about a minute."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from distillation.params import Params

ROOT = Path(__file__).parents[1]
# What a clone takes of the working tree: the product. Parameters, lock, metrics, plots and images are the user's.
PRODUCT = (
    ".dvc/config",
    ".dvc/plots",
    ".dvcignore",
    ".gitignore",
    "LICENSE",
    "Makefile",
    "README.md",
    "benchmarks",
    "distillation",
    "docs",
    "dvc.yaml",
    "presets",
    "pyproject.toml",
    "requirements-cluster.txt",
    "requirements-cuda.txt",
    "requirements-metal.txt",
    "requirements.txt",
    "results",
    "stages",
    "studies",
    "tests",
)
TRAINING = 3 * (27 - 5 - 5)  # images of `draw_folder`, split as below
TINY = {
    "data": {
        "name": "folder",
        "folder": "photos",
        "image_size": 48,
        "validation_fraction": 0.2,
        "test_fraction": 0.2,
    },
    "budget": {"shown": 2 * TRAINING, "answered": 2 * TRAINING, "teacher": TRAINING},
    "teacher": {"image_size": 32, "batch_size": 16},
    "student": {"channels": [4, 8], "batch_size": 16},
    "distill": {"feature_channels": 4, "weights": {"features": 5}},
}
STAGES = [
    "prepare",
    "train_teacher",
    "train_scratch",
    "cache_teacher_logits",
    "distill",
    "evaluate",
    "export",
    "report",
]
FROM_DISTILL = {"distill", "evaluate", "export", "report"}


class Clone:
    """A repository in which commands run with this environment's programs."""

    def __init__(self, path: Path):
        self.path = path

    def run(self, *command: str, check: bool = True, **options: object) -> subprocess.CompletedProcess:
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        options = {"timeout": 900} | options  # seconds; what hangs must not hold up the other tests
        done = subprocess.run(command, cwd=self.path, env=environment, capture_output=True, text=True, **options)
        assert done.returncode == 0 or not check, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def write_params(self, content: dict) -> None:
        """Make `content`, completed from the defaults of the schema, the clone's parameters."""
        params = Params.model_validate(content)
        (self.path / "params.yaml").write_text(yaml.safe_dump(params.model_dump(), sort_keys=False))

    def set_params(self, **sections: dict) -> None:
        """Put values, valid or not, into the clone's parameters."""
        path = self.path / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for section, values in sections.items():
            params[section].update(values)
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    def metrics(self) -> dict:
        return json.loads((self.path / "metrics/evaluate.json").read_text())

    def ran(self, done: subprocess.CompletedProcess) -> set[str]:
        """Names of the stages that a DVC command ran."""
        return {stage for stage in STAGES if f"Running stage '{stage}'" in done.stdout + done.stderr}


def draw_folder(folder: Path) -> None:
    """Three classes of noise, 27 images each, that differ in brightness; one image is there twice."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("dark", "gråt", "light")):
        (folder / name).mkdir(parents=True)
        for number in range(27):
            pixels = rng.integers(0, 146, (48, 48, 3)) + 55 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number:02}.png")
    shutil.copy(folder / "dark/00.png", folder / "dark/copy.png")


def copy_of_the_product(clone: Clone) -> None:
    """Make `clone` a repository of the files of `PRODUCT` that git tracks or would add, with default parameters."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "--", *PRODUCT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (clone.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone.path / name)
    clone.write_params({})
    (clone.path / "data/images").mkdir(parents=True)
    (clone.path / "data/images/README.md").write_text("Own images may stand here.\n")
    (clone.path / "data/class_names.txt").write_text("# no names\n")
    (clone.path / "models").mkdir()
    (clone.path / "models/README.md").write_text("No teacher of one's own.\n")
    (clone.path / "data/unlabeled").mkdir()
    (clone.path / "data/unlabeled/README.md").write_text("No images.\n")
    clone.run("git", "init", "-qb", "main")
    clone.run("git", "config", "user.name", "t")
    clone.run("git", "config", "user.email", "t@example.org")

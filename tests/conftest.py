"""Fixtures that several test files share; the tests run from the top of the repository."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

import stages  # noqa: F401  imports TensorFlow, and keeps its greeting from the output

# isort: split
from clone import ROOT, TINY, Clone, copy_of_the_product, draw_folder
from helpers import random_examples, split_examples, write

from distillation.data.records import Records
from distillation.params import Params

hypothesis.settings.register_profile("reproducible", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("reproducible")

CLASSES = ["ant", "bee", "cow"]
IMAGE_SIZE = 40
# Files of tests, test_*.py
LONGEST_FIRST = (
    "dvc",
    "photographs",
    "killed",
    "front",
    "cluster",
    "teachers",
    "extending",
    "own_teacher",
    "own_images",
)
# What belongs to the user of a checkout, beside the placeholders in data/ and models/.
OF_THE_USER = {ROOT / name for name in ("params.yaml", "dvc.lock", "metrics", "plots", "data/records", ".checkpoints")}


def _leave_to_the_user(event: str, arguments: tuple) -> None:
    """Fail a test that opens what is not its own: it would pass or fail with what the user has done."""
    # With a mode it is `open`; without, `os.open`, whose path may be relative to another folder.
    if event == "open" and isinstance(arguments[1], str) and not isinstance(arguments[0], int) and _in_a_test():
        path = Path(os.path.abspath(os.fsdecode(arguments[0])))  # noqa: PTH100  resolve() would ask the disk each time
        if OF_THE_USER & {path, *path.parents}:
            pytest.fail(f"a test opens {path}")


def _in_a_test() -> bool:
    """Not in one of checks/, which looks at what is committed."""
    return os.environ.get("PYTEST_CURRENT_TEST", "").startswith("tests/")


sys.addaudithook(_leave_to_the_user)


@pytest.fixture(scope="session")
def params() -> Params:
    """The default parameters, with six views of 24 images; `helpers.changed` makes a section with other values."""
    return Params.model_validate({"budget": {"answered": 6 * 24}})


@pytest.fixture(scope="session")
def records_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 random images of three classes: 24 to train on, 6 for validation, 6 for the test."""
    directory = tmp_path_factory.mktemp("data") / "records"
    splits = split_examples(random_examples(36, len(CLASSES), IMAGE_SIZE), CLASSES, 0.2, 0.2, seed=0)
    write(directory, splits, CLASSES, IMAGE_SIZE)
    return directory


@pytest.fixture(scope="session")
def records(records_directory: Path) -> Records:
    """The training split of `records_directory`."""
    return Records("train", directory=records_directory)


@pytest.fixture(scope="session")
def validation_records(records_directory: Path) -> Records:
    return Records("validation", directory=records_directory)


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Clone:
    """The whole pipeline run once on tiny data, and committed; a test that changes it restores it.

    The first of several processes that run tests makes it, and each takes a copy.
    """
    clone, folder = Clone(tmp_path_factory.mktemp("clone") / "repository"), tmp_path_factory.getbasetemp()
    folder = folder if worker_id == "master" else folder.parent
    made, first, reads = Clone(folder / "made"), folder / "first.json", folder / "reads"
    with (folder / "made.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not first.exists():
            copy_of_the_product(made)
            made.write_params(TINY)
            draw_folder(made.path / "photos")
            made.run("dvc", "add", "photos")
            reads.mkdir()
            recorder = Path(__file__).with_name("reads")
            done = made.run("env", f"PYTHONPATH={recorder}", f"READS={reads}", "dvc", "repro")
            made.commit("tiny")
            first.write_text(json.dumps([done.stdout, done.stderr]))
    shutil.copytree(made.path, clone.path)
    clone.first = subprocess.CompletedProcess(["dvc", "repro"], 0, *json.loads(first.read_text()))
    clone.reads = {path.stem: json.loads(path.read_text()) for path in reads.iterdir()}  # parameters that stages read
    return clone


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: two processes, each with one file at a time, then end together."""
    order = {f"test_{name}": place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))

"""Random images and networks of the preset's sizes, where the stages find them."""

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from PIL import Image

from benchmarks._timing import ROOT
from distillation.data.records import RECORDS, Manifest, Records, write_records
from distillation.data.splits import Example, class_counts, image_id
from distillation.data.views import number_of_views
from distillation.inference.answers import ANSWERS, Answers, write_parts
from distillation.inference.components import SHARES
from distillation.inference.forward import BATCH, Arrays
from distillation.networks.network import select
from distillation.networks.students import build_student, with_projections
from distillation.networks.teachers import build_teacher
from distillation.params import Params, Training
from distillation.preset import complete, write_params
from distillation.sources.images import square_jpeg
from distillation.training.batches import view_stream
from distillation.training.fit import scheduled
from distillation.training.fit import training_step as compiled_step
from distillation.training.objective import Objective

PRESET = "cats_vs_dogs"
CLASSES = ["cat", "dog"]
IMAGES = 64  # different ones; the records repeat them


@contextlib.contextmanager
def workspace(images: int, views: int) -> Iterator[Params]:
    """The preset in a temporary folder that looks to the stages like the repository.

    There are `images` random images to train on, and random answers of the teacher to each of `views` views of them.
    The preset's six of 18,385 photographs are not mixed; of more than 16 some would be.
    """
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        for name in ("dvc.yaml", "distillation", "stages"):
            Path(name).symlink_to(ROOT / name)
        params = complete(PRESET)
        params = params.model_copy(update={"budget": params.budget.model_copy(update={"answered": views * images})})
        write_params(params, Path("params.yaml"))
        _write_records(images, params.data.image_size)
        write_parts(ANSWERS, 0, _random_answers(params, images))
        yield params


def _random_answers(params: Params, images: int) -> Iterator[Arrays]:
    side, channels, rng = params.teacher.image_size // 32, params.distill.feature_channels, np.random.default_rng(0)
    sides = {"middle_map": 2 * side, "last_map": side}
    shapes = {name: (sides[name], sides[name], int(channels * share)) for name, share in SHARES.items()}
    count = number_of_views(params.budget, images) * images
    for start in range(0, count, BATCH):
        batch = min(BATCH, count - start)
        yield {
            name: rng.standard_normal((batch, *shape), np.float32)
            for name, shape in {"logits": (len(CLASSES),), **shapes}.items()
        }


def distilled(params: Params, train: Records) -> tuple[keras.Model, tf.data.Dataset, Objective]:
    """What `distill` trains, on which batches, by which objective."""
    student, distill = params.student, params.distill
    objective = Objective(distill.alpha, distill.temperature, distill.weights.model_dump())
    views, names = number_of_views(params.budget, len(train)), objective.reads()
    answers = Answers(views, len(train))
    shapes = {name: answers.shapes[name] for name in names if name != "logits"}
    network = with_projections(build_student(student, len(CLASSES)), shapes)
    return network, view_stream(train, student.image_size, params.views, views, student, answers, names)(0), objective


def scratch(params: Params, train: Records) -> tuple[keras.Model, tf.data.Dataset, Objective]:
    """What `train_scratch` trains, on which batches, by which objective."""
    student = params.student
    network = select(build_student(student, len(CLASSES)), "logits")
    views = number_of_views(params.budget, len(train))
    return network, view_stream(train, student.image_size, params.views, views, student)(0), Objective()


def random_teacher(params: Params) -> keras.Model:
    """The teacher with random weights, and normalisation that fits them: without it the activations vanish."""
    keras.utils.set_random_seed(0)
    teacher = build_teacher(params.teacher.model_copy(update={"weights": None}), len(CLASSES))
    for layer in teacher.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    teacher(random_batch(16, params.teacher.image_size), training=True)
    return select(teacher, "logits")


def random_batch(count: int, size: int) -> np.ndarray:
    """Images of noise, (count, size, size, 3) float32, 0..255."""
    return np.random.default_rng(0).uniform(0, 255, (count, size, size, 3)).astype(np.float32)


def training_step(
    network: keras.Model, batches: tf.data.Dataset, objective: Objective, settings: Training
) -> Callable[[], object]:
    """One step of `network` on the next of `batches` with each call, as `fit` takes it."""
    step = compiled_step(network, objective, scheduled(settings, steps=1_000_000))
    iterator, fade = iter(batches.prefetch(4)), tf.constant(1.0)
    return lambda: step(next(iterator), fade)


def _write_records(images: int, size: int) -> None:
    """Images as smooth as photographs, which take about as long to decode; a few, under many ids."""
    rng = np.random.default_rng(0)
    jpegs = []
    for _ in range(IMAGES):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (size // 8, size // 8, 3), np.uint8)).save(file, "PNG")
        jpegs.append(square_jpeg(file.getvalue(), size))
    sizes = {"train": images, "validation": IMAGES, "test": IMAGES}
    counts = {split: class_counts(np.arange(count) % len(CLASSES), CLASSES) for split, count in sizes.items()}
    manifest = Manifest(
        CLASSES,
        counts,
        labeled=counts["train"],
        unlabeled=0,
        near_duplicates={"validation": 0, "test": 0},
        image_size=size,
        oblong="crop",
        source={"name": "random", "version": "1"},
        duplicates_dropped=0,
        conflicting_duplicates_dropped=0,
        official_splits={},
        overlapping_dropped={"unlabeled": 0, "train": 0, "validation": 0},
    )
    examples = (
        (split, Example(image_id(f"{split} {number}".encode()), number % len(CLASSES), "", jpegs[number % IMAGES]))
        for split, count in sizes.items()
        for number in range(count)
    )
    write_records(RECORDS, examples, manifest)

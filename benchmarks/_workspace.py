"""Random pictures and networks of the preset's sizes, where the stages find them."""

import contextlib
import io
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import yaml
from keras import layers
from PIL import Image

from benchmarks._timing import ROOT
from distillation import training
from distillation.images import square_jpeg
from distillation.losses import DistillationLoss
from distillation.params import Params, Training, load_params
from distillation.records import Example, Manifest, Records, class_counts, image_id, write_records
from distillation.student import build_student, with_projections
from distillation.teacher import FEATURES, build_teacher
from stages import distill

PRESET = ROOT / "presets/cats_vs_dogs.yaml"
CLASSES = ["cat", "dog"]
PICTURES = 64  # different ones; the records repeat them


@contextlib.contextmanager
def workspace(images: int, views: int | None = None) -> Iterator[Params]:
    """The preset in a temporary folder that looks to the stages like the repository.

    There are `images` random pictures to train on, and random answers of the teacher to each of `views`
    views (by default the preset's) of them.
    """
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        for name in ("dvc.yaml", "distillation", "stages"):
            Path(name).symlink_to(ROOT / name)
        params = load_params(PRESET)
        if views is not None:
            params = params.model_copy(update={"views": params.views.model_copy(update={"count": views})})
        Path("params.yaml").write_text(yaml.safe_dump(params.model_dump()))
        _write_records(images, params.data.image_size)
        side, channels = params.teacher.image_size // 32, params.distill.feature_channels
        rng = np.random.default_rng(0)
        Path("data/teacher_features").mkdir()
        answers = {"data/teacher_logits.npy": (np.float32, (len(CLASSES),))}
        for name, part in FEATURES.items():
            shape = (side * math.isqrt(part), side * math.isqrt(part), channels // part)
            answers[f"data/teacher_features/{name}.npy"] = (np.float16, shape)
        for name, (dtype, shape) in answers.items():
            np.save(name, rng.standard_normal((params.views.count, images, *shape), np.float32).astype(dtype))
        yield params


def distilled(params: Params, train: Records) -> tuple[keras.Model, tf.data.Dataset, DistillationLoss]:
    """What `distill` trains, on which batches, by which loss."""
    student = params.student
    loss, answers = distill.teaching(params)
    model = with_projections(build_student(student, len(CLASSES)), [maps.shape[2:] for maps in answers[1:]])
    batches = training.view_batches(train, student.image_size, params.views, student, answers)
    return model, batches(range(student.epochs)), loss


def random_teacher(params: Params) -> keras.Model:
    """The teacher with random weights, and normalisation that fits them: without it the activations vanish."""
    keras.utils.set_random_seed(0)
    teacher = build_teacher(params.teacher, len(CLASSES))
    for layer in teacher.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    teacher(random_batch(16, params.teacher.image_size), training=True)
    return teacher


def random_batch(count: int, size: int) -> np.ndarray:
    """Pictures of noise, (count, size, size, 3) float32, 0..255."""
    return np.random.default_rng(0).uniform(0, 255, (count, size, size, 3)).astype(np.float32)


def training_step(
    model: keras.Model, batches: tf.data.Dataset, settings: Training, loss: DistillationLoss
) -> Callable[[], object]:
    """One step of `model` on the next of `batches`, compiled as `training.fit` does it; of a `workspace`."""
    once = settings.model_copy(update={"epochs": 1})
    validation = batches.take(1).map(lambda images, targets: (images, targets[:, :1]))
    with contextlib.redirect_stderr(io.StringIO()):
        training.fit("train_scratch", model, lambda _: batches, validation, settings.batch_size, once, loss)
    training.discard("train_scratch")
    return steps(model, batches)


def steps(model: keras.Model, batches: tf.data.Dataset) -> Callable[[], object]:
    """The compiled training step of `model`, on the next of `batches` with each call."""
    iterator = iter(batches.prefetch(4))  # as in `training.fit`
    return lambda: model.train_function(iterator)


def _write_records(images: int, size: int) -> None:
    """Pictures as smooth as photographs, which take about as long to decode; a few, under many ids."""
    rng = np.random.default_rng(0)
    jpegs = []
    for _ in range(PICTURES):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (size // 8, size // 8, 3), np.uint8)).save(file, "PNG")
        jpegs.append(square_jpeg(file.getvalue(), size))
    splits = {
        split: [
            Example(image_id(f"{split} {number}".encode()), number % len(CLASSES), "", jpegs[number % PICTURES])
            for number in range(count)
        ]
        for split, count in (("train", images), ("validation", PICTURES), ("test", PICTURES))
    }
    counts = {name: class_counts(split, CLASSES) for name, split in splits.items()}
    near, source = {"validation": 0, "test": 0}, {"name": "random", "version": "1"}
    write_records(Path("data/records"), splits, Manifest(CLASSES, counts, counts["train"], near, size, source, 0, 0))

"""How the teacher learns: its head is solved on a frozen backbone, which may be fine-tuned, or all of it is trained."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from distillation.console import note
from distillation.data.records import Records
from distillation.data.views import unmixed
from distillation.inference.forward import forward_pass, plain_images, predict, view_images
from distillation.networks.teachers import HEAD, build_teacher
from distillation.params import Params
from distillation.training.batches import plain_batches, view_stream
from distillation.training.checkpoint import Checkpoint, History
from distillation.training.fit import fit
from distillation.training.head import scores, solve_head
from distillation.training.objective import Objective

STAGE, MODEL = "train_teacher", "teacher"
WARMUP = 0.1  # share of the steps of a network that is trained whole
RARE = 20  # images of a class that the head learns from, however many images there are in all


def train_whole(network: keras.Model, images: int, train: Records, validation: Records, params: Params) -> History:
    """Train all of `network` from where it is, on so many views; return its history (see `fit`)."""
    teacher, size = params.teacher, network.input_shape[1]
    steps = max(1, images // teacher.batch_size)
    return fit(
        STAGE,
        MODEL,
        network,
        Objective(),
        view_stream(train, size, unmixed(params.views), steps, teacher),  # no pass shows a view again
        plain_batches(validation, size, teacher.batch_size),
        steps,
        teacher,
        round(WARMUP * steps),
    )


def train_head(
    network: keras.Model, train: Records, validation: Records, params: Params, step: str = "frozen"
) -> History:
    """Put the best head on the backbone of `network`, which stays as it is.

    The head learns from the plain view of each image, and from as many augmented ones as `budget.teacher` has room
    for. Each passes through the backbone once. Of more images than that, it learns from a `sample`.

    Args:
        network: see `build_teacher`.
        train: labeled images.
        validation: images by which the strength of decay is chosen.
        params: all parameters.
        step: names the checkpoint, since a stage may put a head on two networks.

    Returns:
        A history of one row: `images`, and accuracy and loss of `train` and `validation`.
    """
    head, size = network.get_layer(HEAD), params.teacher.image_size
    checkpoint = Checkpoint(STAGE, head.variables, step)
    history = checkpoint.restore()
    if not history:
        train = train.only(sample(train.labels, params.budget.teacher))
        views = max(0, round(params.budget.teacher / len(train)) - 1)
        backbone = forward_pass(keras.Model(network.input, {"features": head.input}))

        def features(images: tf.data.Dataset, name: str) -> np.ndarray:
            return predict(backbone, images, f"{STAGE}: {step} features of {name}")["features"]

        seen = features(plain_images(train, size), "plain images")
        labels = np.tile(train.labels, 1 + views)
        if views:
            seen = np.concatenate([seen, features(view_images(train, size, unmixed(params.views), views), "views")])
        held_out = features(plain_images(validation, size), "validation")
        note(f"{STAGE}  solving the head on {len(labels):,} views")
        solved = solve_head(seen, labels, held_out, validation.labels, classes=len(train.manifest.classes))
        head.set_weights([solved.kernel, solved.bias])
        on_validation = scores("validation", solved.logits(held_out), validation.labels)
        history = [{"images": len(labels), **scores("train", solved.logits(seen), labels), **on_validation}]
        checkpoint.save(history)
    return history


def sample(labels: np.ndarray, count: int) -> np.ndarray:
    """Which of n images to learn from, (n,) bool: the first `count`, and the first `RARE` of each class.

    `labels` are (n,) integers in id order. Ids are digests, so this order is random.
    """
    chosen = np.arange(len(labels)) < count
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[:RARE]] = True
    return chosen


def fine_tune(network: keras.Model, train: Records, validation: Records, params: Params) -> tuple[keras.Model, History]:
    """A copy of `network`, a backbone under a solved head, that has learned from `teacher.fine_tune` further views.

    Normalisation keeps its statistics, scale and offset: those of small batches are worse (docs/teachers.md). In the
    end the head is solved again.

    Returns:
        The copy, and its history (see `fit`), whose last row is that of the solved head.
    """
    tuned = build_teacher(params.teacher, len(train.manifest.classes))
    tuned.set_weights(network.get_weights())
    normalisation = [layer for layer in tuned.layers if isinstance(layer, layers.BatchNormalization)]
    for layer in normalisation:
        layer.trainable = False
    history = train_whole(tuned, params.teacher.fine_tune, train, validation, params)
    for layer in normalisation:
        layer.trainable = True  # as in the frozen network: it is a part of what is published
    [solved] = train_head(tuned, train, validation, params, "fine-tuned")
    return tuned, [*history[:-1], history[-1] | solved | {"images": history[-1]["images"]}]


def better(
    frozen: tuple[keras.Model, History], tuned: tuple[keras.Model, History]
) -> tuple[keras.Model, History, dict[str, bool | float]]:
    """Of two networks with their histories, the one that is right more often on validation: a tie leaves it frozen.

    And what `metrics/teacher.json` says of the choice. A line says it, too.
    """
    before, after = (history[-1]["validation_accuracy"] for _, history in (frozen, tuned))
    is_tuned = after > before
    note(f"{STAGE}: validation accuracy {before:.4f} frozen, {after:.4f} fine-tuned")
    note(f"{STAGE}: the teacher is the {'fine-tuned' if is_tuned else 'frozen'} one")
    return *(tuned if is_tuned else frozen), {
        "fine_tuned": is_tuned,
        "frozen_validation_accuracy": before,
        "fine_tuned_validation_accuracy": after,
    }

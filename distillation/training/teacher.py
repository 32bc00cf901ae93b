"""How the teacher learns: its head is solved on a frozen backbone, or the whole network is trained."""

import keras
import numpy as np
import tensorflow as tf

from distillation.console import note
from distillation.data.records import Records
from distillation.files import write_json
from distillation.inference.forward import forward_pass, plain_images, predict, view_images
from distillation.networks.teachers import HEAD
from distillation.params import Params
from distillation.training.batches import plain_batches, view_stream
from distillation.training.checkpoint import History
from distillation.training.fit import fit
from distillation.training.head import solve_head
from distillation.training.objective import Objective

WARMUP = 0.1  # share of the steps of a network that is trained whole


def train_whole(
    stage: str, model: str, network: keras.Model, train: Records, validation: Records, params: Params
) -> History:
    """Train all of `network` from where it is, on `budget.teacher` views; return its history (see `fit`)."""
    teacher = params.teacher
    steps = max(1, params.budget.teacher // teacher.batch_size)
    return fit(
        stage,
        model,
        network,
        Objective(),
        view_stream(train, teacher.image_size, params.views, steps, teacher),  # no pass shows a view again
        plain_batches(validation, teacher.image_size, teacher.batch_size),
        steps,
        teacher,
        round(WARMUP * steps),
    )


def train_head(
    stage: str, model: str, network: keras.Model, train: Records, validation: Records, params: Params
) -> History:
    """Put the best head on the backbone of `network`, which stays as it is.

    The head learns from the plain view of each image, and from as many augmented ones as `budget.teacher` has room
    for. Each passes through the backbone once.

    Returns:
        A history of one row, with the keys of `fit`'s.
    """
    size, views = params.teacher.image_size, max(0, round(params.budget.teacher / len(train)) - 1)
    backbone = forward_pass(keras.Model(network.input, {"features": network.get_layer(HEAD).input}))

    def features(images: tf.data.Dataset, name: str) -> np.ndarray:
        return predict(backbone, images, f"{stage}: features of {name}")["features"]

    seen, held_out = (
        features(plain_images(train, size), "plain images"),
        features(plain_images(validation, size), "validation"),
    )
    if views:
        seen = np.concatenate([seen, features(view_images(train, size, params.views, views), "views")])
    labels = np.tile(train.labels, 1 + views)
    note(f"{stage}  solving the head on {len(labels):,} views")
    head = solve_head(seen, labels, held_out, validation.labels, len(train.manifest.classes))
    network.get_layer(HEAD).set_weights([head.kernel, head.bias])
    history = [
        {
            "images": len(labels),
            **head.score("train", seen, labels),
            **head.score("validation", held_out, validation.labels),
        }
    ]
    write_json(f"plots/history/{model}.json", history)
    return history

"""Train the teacher: a linear head on a frozen backbone, or (teacher.weights: null) the whole network."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from distillation.console import run
from distillation.data.records import Records
from distillation.inference.forward import forward_pass, plain_images, predict, view_images
from distillation.networks.teachers import HEAD, build_teacher
from distillation.params import Params
from distillation.training.batches import array_stream, plain_batches, view_stream
from distillation.training.checkpoint import History
from distillation.training.fit import fit, publish, set_seed
from distillation.training.objective import Objective

WARMUP = 0.1  # share of the steps of a whole network
STAGE, MODEL = "train_teacher", "teacher"


def main(params: Params) -> str:
    """Write the teacher's network, its final metrics and its history."""
    labeled, validation = Records("train", labeled_only=True), Records("validation")
    set_seed(params.teacher.seed)
    network = build_teacher(params.teacher, len(labeled.manifest.classes))
    train = _train_whole if params.teacher.weights is None else _train_head
    return publish(STAGE, MODEL, network, train(network, labeled, validation, params))


def _train_whole(network: keras.Model, train: Records, validation: Records, params: Params) -> History:
    teacher = params.teacher
    steps = max(1, params.budget.teacher // teacher.batch_size)
    return fit(
        STAGE,
        MODEL,
        network,
        Objective(),
        view_stream(train, teacher.image_size, params.views, steps, teacher),  # no pass shows a view again
        plain_batches(validation, teacher.image_size, teacher.batch_size),
        steps,
        teacher,
        round(WARMUP * steps),
    )


def _train_head(network: keras.Model, train: Records, validation: Records, params: Params) -> History:
    """The backbone is frozen, so each view passes through it once, however many epochs the head trains."""
    teacher, head = params.teacher, network.get_layer(HEAD)
    views = round(params.budget.teacher / len(train)) - 1  # beside the plain one
    backbone = forward_pass(keras.Model(network.input, {"features": network.get_layer(HEAD).input}))
    passes = {"plain images": plain_images(train, teacher.image_size)}
    if views > 0:
        passes["views"] = view_images(train, teacher.image_size, params.views, views)
    features = [predict(backbone, images, f"{STAGE}: features of {name}") for name, images in passes.items()]
    examples = {name: np.concatenate([batch[name] for batch in features]) for name in features[0]}
    examples["label"] = np.tile(train.labels, len(examples["features"]) // len(train))
    held_out = predict(backbone, plain_images(validation, teacher.image_size), f"{STAGE}: features of validation")
    held_out["label"] = validation.labels
    source = keras.Input(examples["features"].shape[1:], name="features")
    return fit(
        STAGE,
        MODEL,
        keras.Model(source, {"logits": head(layers.Dropout(teacher.dropout)(source))}),
        Objective(),
        array_stream(examples, teacher),
        tf.data.Dataset.from_tensor_slices(held_out).batch(teacher.batch_size),
        max(1, len(examples["label"]) * teacher.epochs // teacher.batch_size),
        teacher,
    )


if __name__ == "__main__":
    run(main)

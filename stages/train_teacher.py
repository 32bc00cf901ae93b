"""Train the teacher: a linear head on a frozen backbone, or (teacher.weights: null) the whole network."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from distillation import training
from distillation.console import run
from distillation.inference import forward_pass, plain_images, predict, view_images
from distillation.losses import DistillationLoss
from distillation.params import Params
from distillation.records import Records
from distillation.teacher import HEAD, build_teacher

STAGE = "train_teacher"


def main(params: Params) -> str:
    """Write the teacher's weights, its final metrics and its history."""
    teacher = params.teacher
    labeled, validation = Records("data/records", "train", labeled_only=True), Records("data/records", "validation")
    training.set_seed(teacher.seed)
    model = build_teacher(teacher, len(labeled.manifest.classes), teacher.weights)
    train = _train_whole if teacher.weights is None else _train_head
    history = train(model, labeled, validation, params)
    return training.publish(STAGE, "teacher", model, history)


def _train_whole(model: keras.Model, train: Records, validation: Records, params: Params) -> list[dict[str, float]]:
    teacher = params.teacher
    return training.fit(
        STAGE,
        model,
        training.view_batches(train, teacher.image_size, params.views, teacher),
        training.plain_batches(validation, teacher.image_size, teacher.batch_size),
        train.manifest.size("train"),
        teacher,
        DistillationLoss(len(train.manifest.classes)),
        warmup_epochs=1,
    )


def _train_head(model: keras.Model, train: Records, validation: Records, params: Params) -> list[dict[str, float]]:
    """The backbone is frozen, so each view passes through it once, however many epochs the head trains."""
    teacher = params.teacher
    backbone = forward_pass(keras.Model(model.input, model.get_layer(HEAD).input))
    views = [plain_images(train, teacher.image_size)]
    for view in range(teacher.views):
        views.append(view_images(train, teacher.image_size, params.views, view))
    features = [
        predict(backbone, images, f"{STAGE}: features of view {number}/{len(views)}")
        for number, images in enumerate(views, 1)
    ]
    held_out = predict(backbone, plain_images(validation, teacher.image_size), f"{STAGE}: validation")
    head = keras.Sequential([keras.Input(held_out.shape[1:]), layers.Dropout(teacher.dropout), model.get_layer(HEAD)])
    labels = np.tile(train.labels, len(features))[:, None].astype(np.float32)
    images = len(features) * train.manifest.size("train")
    examples = tf.data.Dataset.from_tensor_slices((np.concatenate(features), labels))
    shuffled = training.shuffled_batches(examples, images, images, teacher)
    return training.fit(
        STAGE,
        head,
        lambda epochs: shuffled(epochs).map(lambda batch, *_: batch),
        tf.data.Dataset.from_tensors((held_out, validation.labels[:, None].astype(np.float32))),
        images,
        teacher,
        DistillationLoss(len(train.manifest.classes)),
    )


if __name__ == "__main__":
    run(main)

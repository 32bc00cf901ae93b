"""Training: batches of views, and one `fit` that all three models go through."""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from distillation.checkpoint import Checkpoint, discard
from distillation.console import note
from distillation.errors import InputError
from distillation.files import replacing, write_json
from distillation.losses import DistillationLoss, LabeledMean, accuracy, cross_entropy
from distillation.params import Training, Views
from distillation.records import Records, decode
from distillation.views import augmented, plain

CACHE_BYTES = 5 * 2**29  # 2.5 GiB: up to this, decoded pictures stay in memory; an epoch's answers come on top
SHUFFLE_BUFFER = 2**15  # encoded pictures, each with its answers, where the decoded ones don't fit


def set_seed(seed: int) -> None:
    """Seed every generator and make every operation deterministic, before a network is built."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def view_batches(
    records: Records, image_size: int, views: Views, training: Training, soft_targets: Sequence[np.memmap] = ()
) -> Callable[[range], tf.data.Dataset]:
    """Training batches of augmented views with their targets, for any range of epochs.

    Epoch e shows view e mod `views.count` of every picture, in an order that is a function of
    `training.seed` and e: a resumed run sees what the undisturbed one would have. An epoch is as long as
    the whole training split: where `records` are the labeled ones alone, it shows several views of each.

    Args:
        records: n pictures of the training split.
        image_size: side of the views in pixels.
        views, training: augmentation; batch size and seed.
        soft_targets: the teacher's answers to the whole training split, each (views.count, n, ...) in id order and
            mapped from its `.npy` file, from which it is streamed; to be packed behind the label.

    Returns:
        A function from a range of epochs to batches (images (batch, size, size, 3) float32 0..255,
        targets (batch, 1 + ...) float32; see `distillation/losses.py`).
    """
    image_size_on_disk, count, images = records.manifest.image_size, len(records), records.manifest.size("train")

    def parse(serialised: tf.Tensor) -> dict[str, tf.Tensor]:
        return decode(serialised, image_size_on_disk)

    def answers(epoch: int) -> list[tf.data.Dataset]:
        return [_rows(array, epoch % views.count) for array in soft_targets]

    def to_views(
        batch: dict[str, tf.Tensor], position: tf.Tensor, epoch: tf.Tensor, *rows: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        view = (epoch + position // count) % views.count
        targets = [tf.cast(batch["label"][:, None], tf.float32)]
        for row, array in zip(rows, soft_targets, strict=True):
            target = tf.cast(tf.io.decode_raw(row, array.dtype), tf.float32)
            targets.append(tf.ensure_shape(target, (None, array[0, 0].size)))
        return augmented(batch["image"], batch["id"], view, image_size, views), tf.concat(targets, axis=1)

    examples = records.dataset()
    if count * image_size_on_disk**2 * 3 <= CACHE_BYTES:
        shuffled = shuffled_batches(examples.map(parse, tf.data.AUTOTUNE).cache(), images, images, training, answers)
    else:
        shuffled = shuffled_batches(examples, images, SHUFFLE_BUFFER, training, answers, parse)
    return lambda epochs: shuffled(epochs).map(to_views, tf.data.AUTOTUNE)


def _rows(array: np.memmap, view: int) -> tf.data.Dataset:
    """The rows of `array[view]` as strings of their bytes."""
    before, after = array.offset + array[:view].nbytes, array[view + 1 :].nbytes
    return tf.data.FixedLengthRecordDataset(str(array.filename), array[0, 0].nbytes, before, after)


def shuffled_batches(
    examples: tf.data.Dataset,
    images: int,
    buffer: int,
    training: Training,
    answers: Callable[[int], Sequence[tf.data.Dataset]] = lambda epoch: (),
    parse: Callable | None = None,
) -> Callable[[range], tf.data.Dataset]:
    """Full batches in another order each epoch, the order a function of (training.seed, epoch).

    Args:
        examples: at most `images` of them; they are repeated until they are that many.
        images: examples in an epoch.
        buffer: how many wait to be shuffled.
        training: batch size and seed.
        answers: what else, of an epoch, goes with each example.
        parse: what makes of an example what is batched, after shuffling.

    Returns:
        A function from a range of epochs to (batch, positions in 0..images-1 before shuffling (batch,) int64,
        epoch, answers).
    """
    copies = -(-images // len(examples))
    if copies > 1:  # else `take` would end before a cache below it is complete
        examples = examples.repeat(copies).take(images)

    def of_epoch(epoch: int) -> tf.data.Dataset:
        seed = int(np.random.SeedSequence([training.seed, epoch]).generate_state(1)[0])
        positioned = tf.data.Dataset.zip(examples, tf.data.Dataset.range(images), *answers(epoch))
        shuffled = positioned.shuffle(buffer, seed=seed, reshuffle_each_iteration=False)
        if parse is not None:
            shuffled = shuffled.map(lambda example, *others: (parse(example), *others), tf.data.AUTOTUNE)
        batches = shuffled.batch(training.batch_size, drop_remainder=True)
        return batches.map(lambda batch, positions, *rows: (batch, positions, tf.constant(epoch, tf.int64), *rows))

    return lambda epochs: functools.reduce(tf.data.Dataset.concatenate, map(of_epoch, epochs))


def plain_batches(records: Records, image_size: int, batch_size: int) -> tf.data.Dataset:
    """The plain view of every picture with its hard label, for validation; cached where it fits in memory."""
    batches = records.batches(batch_size).map(
        lambda batch: (plain(batch["image"], image_size), tf.cast(batch["label"][:, None], tf.float32)),
        tf.data.AUTOTUNE,
    )
    return batches.cache() if len(records) * image_size**2 * 3 * 4 <= CACHE_BYTES // 4 else batches


def fit(
    stage: str,
    model: keras.Model,
    batches: Callable[[range], tf.data.Dataset],
    validation: tf.data.Dataset,
    images: int,
    training: Training,
    loss: DistillationLoss,
    warmup_epochs: float = 0,
) -> list[dict[str, float]]:
    """Train `model` in place for `training.epochs`, taking up what a killed run of `stage` left.

    `publish`, called afterwards, ends the stage and discards the checkpoint.

    `Muon`, no decay on biases and normalisation, linear warm-up, cosine to zero. The weights after the
    last epoch are the result: none is chosen by validation. The loss's hint fades over the epochs.

    Args:
        stage: name in dvc.yaml, which names the checkpoint.
        model: a network that returns logits, or packed rows of logits and features.
        batches: from a range of epochs to training batches with packed targets.
        validation: batches (images, hard labels).
        images: number of training images.
        training: epochs, batch size, learning rate, weight decay.
        loss: on packed rows; it names the number of classes.
        warmup_epochs: epochs of linear warm-up.

    Returns:
        One row per epoch: `epoch` (from 1), `train_accuracy`, `train_loss`, `validation_accuracy`,
        `validation_loss`; both losses are the cross-entropy against the hard labels, in nats.
    """
    steps = images // training.batch_size
    if steps == 0:
        raise InputError(f"{stage}: batch_size = {training.batch_size} is more than the {images} training images")
    total, warmup = steps * training.epochs, round(steps * warmup_epochs)
    optimizer = Muon(
        keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else training.learning_rate,
            max(1, total - warmup),
            warmup_target=training.learning_rate if warmup else None,
            warmup_steps=warmup,
        ),
        weight_decay=training.weight_decay,
        adam_weight_decay=training.weight_decay,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    metrics = [LabeledMean(metric, name=metric.__name__, classes=loss.classes) for metric in (accuracy, cross_entropy)]
    model.compile(optimizer, loss, metrics=metrics)
    checkpoint = Checkpoint(stage)
    done = checkpoint.restore(model)
    if done < training.epochs:
        model.fit(
            batches(range(done, training.epochs)).prefetch(4),
            validation_data=validation,
            initial_epoch=done,
            epochs=training.epochs,
            steps_per_epoch=steps,
            callbacks=[
                keras.callbacks.LambdaCallback(lambda epoch, _: loss.fade_hint(epoch, training.epochs)),
                checkpoint,
                _EpochLine(stage, done, training.epochs),
            ],
            shuffle=False,  # the batches are shuffled
            verbose=0,
        )
    return [
        {
            "epoch": epoch,
            "train_accuracy": logs["accuracy"],
            "train_loss": logs["cross_entropy"],
            "validation_accuracy": logs["val_accuracy"],
            "validation_loss": logs["val_cross_entropy"],
        }
        for epoch, logs in enumerate(checkpoint.history, 1)
    ]


def publish(stage: str, name: str, model: keras.Model, history: list[dict[str, float]]) -> str:
    """Write weights, final metrics and history of a trained model; return the stage's line of result."""
    weights = Path(f"models/{name}.weights.h5")
    with replacing(weights) as temporary:
        keras.Model(model.input, model.output).save_weights(temporary)  # without the optimizer's state
    write_json(f"plots/history/{name}.json", history)
    final = {key: value for key, value in history[-1].items() if key != "epoch"}
    write_json(f"metrics/{name}.json", final)
    discard(stage)
    return f"{stage}: validation accuracy {final['validation_accuracy']:.4f} -> {weights}"


class Muon(keras.optimizers.Muon):
    """Muon on the kernels of convolutions, AdamW (Loshchilov and Hutter, 2019) on all else.

    Muon (Jordan et al., 2024) replaces the momentum of a matrix by the nearest semi-orthogonal matrix; here
    the matrix of a kernel (height, width, in, out) is (height width in, out). Updates are scaled to the size
    of AdamW's (Liu et al., "Muon is scalable for LLM training", 2025, section 2.2), so both share one rate.
    Keras's own class leaves convolutions to AdamW.
    """

    def _should_use_adamw(self, variable: keras.Variable) -> bool:
        return len(variable.shape) != 4 or variable.shape[-1] == 1  # the latter: a depthwise kernel is no matrix

    def zeropower_via_newtonschulz5(self, x, steps: int):
        """As Keras's, to rounding, in a third of its time.

        Keras multiplies x in each step by a polynomial of its Gram matrix. All these commute, so they are
        multiplied with each other first: what the steps work on is then as small as the smaller side of x.
        """
        matrix = _matrix(x)
        wide = matrix.shape[0] < matrix.shape[1]
        matrix = matrix / (ops.norm(matrix) + 1e-7)
        gram = tf.matmul(matrix, matrix, transpose_a=not wide, transpose_b=wide)
        product = identity = ops.eye(gram.shape[0])
        for _ in range(steps):
            factor = self.muon_a * identity + self.muon_b * gram + self.muon_c * gram @ gram
            product = product @ factor
            gram = factor @ gram @ factor
        return ops.reshape(product @ matrix if wide else matrix @ product, x.shape)

    def lr_adjust(self, x):
        return ops.reshape(super().lr_adjust(_matrix(x)), x.shape)


def _matrix(kernel):
    return ops.reshape(kernel, (-1, kernel.shape[-1]))


class _EpochLine(keras.callbacks.Callback):
    """One line an epoch, with the time that is left."""

    def __init__(self, stage: str, done: int, epochs: int):
        super().__init__()
        self.stage, self.done, self.epochs, self.start = stage, done, epochs, time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        left = (time.monotonic() - self.start) / (epoch + 1 - self.done) * (self.epochs - epoch - 1)
        note(
            f"{self.stage}  epoch {epoch + 1}/{self.epochs}  train accuracy {logs['accuracy']:.3f}  "
            f"validation accuracy {logs['val_accuracy']:.3f}  {left / 60:.1f} min left"
        )

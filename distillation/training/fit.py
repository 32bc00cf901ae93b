"""The training loop of all three models, and the files that it publishes."""

import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from distillation.console import note
from distillation.data.splits import UNLABELED
from distillation.errors import InputError
from distillation.files import write_json
from distillation.networks.network import save_network
from distillation.params import Training
from distillation.training.batches import Stream, first_batches
from distillation.training.checkpoint import Checkpoint, History, discard
from distillation.training.muon import Muon
from distillation.training.objective import Objective, hard
from distillation.training.precision import in_float32, in_precision

REPORTS = 20  # per run: each adds a row to the history, prints a line and saves a checkpoint
VALIDATION_IMAGES = 2000  # at most, for each report but the last, which uses all of them


def set_seed(seed: int) -> None:
    """Seed every generator and make every operation deterministic, before a network is built."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def fit(
    stage: str,
    model: str,
    network: keras.Model,
    objective: Objective,
    stream: Stream,
    validation: tf.data.Dataset,
    steps: int,
    settings: Training,
    warmup_steps: int = 0,
    precision: str = "float32",
) -> History:
    """Train `network`, going on from where a killed run of the same stage left off.

    The learning rate rises linearly for `warmup_steps`, then falls along a cosine to zero. The weights after the
    last step are the result: none are chosen by validation. Further terms of the objective fade with the reports, as
    the square of the share that is left: in a straight line, they hold small students back (docs/results.md).

    Args:
        stage: name in dvc.yaml, which names the checkpoint.
        model: names the history, `plots/history/MODEL.json`, which grows with every report.
        network: its outputs have the names that the objective reads.
        objective: the loss.
        stream: training batches; the network takes the tensor with its input's name.
        validation: labeled batches of the same form.
        steps: number of batches to train on, at least 1.
        settings: batch size, learning rate, weight decay.
        warmup_steps: fewer than `steps`.
        precision: of the network's operations while it trains, `float32` or `mixed_bfloat16`; weights and objective
            are float32 in both cases.

    Returns:
        A row for each report: `images` shown so far; `train_accuracy` and `train_loss` since the last report;
        `validation_accuracy` and `validation_loss`; and `objective_NAME`, each weighted term. Losses are the
        cross-entropy against the labels, in nats; unlabeled images don't count.
    """
    optimizer = scheduled(settings, steps, warmup_steps)
    trained_network = in_precision(network, precision)
    optimizer.build(trained_network.trainable_variables)
    checkpoint = Checkpoint(stage, [*trained_network.variables, *optimizer.variables])
    history = checkpoint.restore()
    train_step, score = training_step(trained_network, objective, optimizer), _scoring(trained_network)
    reports = min(REPORTS, steps)
    most = min(VALIDATION_IMAGES // settings.batch_size, steps // reports)  # batches: no more than were trained on
    part_of_validation = first_batches(validation, max(1, most))
    ends = [steps * report // reports for report in range(reports + 1)]
    first, start = ends[len(history)], time.monotonic()
    batches = iter(stream(first).prefetch(4))
    for report in range(len(history), reports):
        fade = tf.constant((1 - report / reports) ** 2, tf.float32)
        taken = ends[report + 1] - ends[report]
        trained = _totals([train_step(next(batches), fade) for _ in range(taken)])
        held_out = part_of_validation if report + 1 < reports else validation
        validated = _totals([score(batch) for batch in held_out])
        row = {
            "images": ends[report + 1] * settings.batch_size,
            **_means("train", trained),
            **_means("validation", validated),
            **{f"objective_{name}": trained.get(name, 0.0) / taken for name in objective.names},
        }
        for name, value in row.items():
            if not np.isfinite(value):
                rate = f"{model.partition('_')[0]}.learning_rate"
                raise InputError(f"{name} is {value} after {row['images']:,} images: a lower {rate} may help")
        history.append(row)
        checkpoint.save(history)
        write_json(f"plots/history/{model}.json", history)
        left = (time.monotonic() - start) / (ends[report + 1] - first) * (steps - ends[report + 1])
        note(
            f"{stage} {100 * (report + 1) / reports:3.0f} %  train accuracy {row['train_accuracy']:.3f}  "
            f"validation {row['validation_accuracy']:.3f}  {left / 60:.1f} min left"
        )
    network.set_weights(trained_network.get_weights())
    return history


def training_step(
    network: keras.Model, objective: Objective, optimizer: keras.optimizers.Optimizer
) -> Callable[[dict, tf.Tensor], dict[str, tf.Tensor]]:
    """A compiled training step, called with a batch and the factor of the fading terms (see `Objective`).

    It returns scalars by name: each weighted term's mean over the batch, and those of `_counts`.
    """
    source = network.input.name

    @tf.function
    def step(batch: dict, fade: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            outputs = in_float32(network(batch[source], training=True))
            terms = objective(batch, outputs, fade)
            loss = tf.add_n(list(terms.values()))
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)
        return terms | _counts(batch["label"], outputs["logits"])

    return step


def publish(
    stage: str, model: str, network: keras.Model, history: History, further: dict[str, bool | float] | None = None
) -> str:
    """Write a trained network and all that `finish` writes; return the stage's line of result."""
    save_network(network, f"models/{model}")
    return finish(stage, model, history, further)


def finish(stage: str, model: str, history: History, further: dict[str, bool | float] | None = None) -> str:
    """Write the history and the final metrics, with `further` ones, of a network that is written already."""
    write_json(f"plots/history/{model}.json", history)
    kept = ("train_accuracy", "train_loss", "validation_accuracy", "validation_loss")
    write_json(f"metrics/{model}.json", {key: history[-1][key] for key in kept} | (further or {}))
    discard(stage)
    return f"{stage}: validation accuracy {history[-1]['validation_accuracy']:.4f} -> models/{model}"


def scheduled(settings: Training, steps: int, warmup_steps: int = 0) -> Muon:
    """The optimizer, with a learning rate that rises linearly, then falls along a cosine to zero at `steps`."""
    optimizer = Muon(
        keras.optimizers.schedules.CosineDecay(
            0.0 if warmup_steps else settings.learning_rate,
            max(1, steps - warmup_steps),
            warmup_target=settings.learning_rate if warmup_steps else None,
            warmup_steps=warmup_steps,
        ),
        weight_decay=settings.weight_decay,
        adam_weight_decay=settings.weight_decay,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return optimizer


def _scoring(network: keras.Model) -> Callable[[dict], dict[str, tf.Tensor]]:
    source = network.input.name

    @tf.function
    def score(batch: dict) -> dict[str, tf.Tensor]:
        return _counts(batch["label"], in_float32(network(batch[source], training=False))["logits"])

    return score


def _counts(labels: tf.Tensor, logits: tf.Tensor) -> dict[str, tf.Tensor]:
    """How many images of a batch are labeled, how many of these are right, and the sum of their cross-entropy."""
    right = tf.argmax(logits, axis=-1) == labels
    return {
        "labeled": tf.math.count_nonzero(labels != UNLABELED),
        "right": tf.math.count_nonzero(right),
        "cross_entropy": tf.reduce_sum(hard(labels, logits)),
    }


def _totals(batches: list[dict[str, tf.Tensor]]) -> dict[str, float]:
    return {name: float(np.sum([batch[name] for batch in batches], dtype=np.float64)) for name in batches[0]}


def _means(split: str, totals: dict[str, float]) -> dict[str, float]:
    labeled = max(1, totals["labeled"])
    return {f"{split}_accuracy": totals["right"] / labeled, f"{split}_loss": totals["cross_entropy"] / labeled}

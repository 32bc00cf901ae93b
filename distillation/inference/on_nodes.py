"""The teacher's pass on the nodes of a Ray cluster: what this machine would answer, where CPUs are of one kind."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from distillation import cluster
from distillation.console import progress
from distillation.data.records import Records
from distillation.inference.answers import PART, Arrays, as_stored, joined
from distillation.inference.forward import BATCH, drawn, numbered
from distillation.inference.litert import Network
from distillation.params import Views

TASK = PART // 8  # answers: seconds of work, so that sending costs little, and all nodes end at about the same time


def predictions(
    network: Network, records: Records, size: int, views: Views, count: int, first: int, label: str
) -> Iterator[Arrays]:
    """What `forward.predictions` gives of `view_images`, as it is stored, task by task (see `cluster.map_in_order`).

    Args:
        network: takes images of `size`.
        records, size, views, count, first: see `view_images`.
        label: what the progress bar says.
    """
    examples = numbered(records, views, count, first)
    mixture = examples.element_spec[0].shape[0]
    teacher = _Teacher(network.content, network.names, records.manifest.image_size, size, views, mixture)
    tasks = ((rows.tolist(), numbers) for rows, numbers in examples.batch(TASK).prefetch(2).as_numpy_iterator())
    return progress(cluster.map_in_order(_answer, teacher, tasks, label), -(-len(examples) // TASK), label)


@dataclass(frozen=True)
class _Teacher:
    """What all tasks have in common; for `content` and `names` see `litert.Network`."""

    content: bytes
    names: dict[str, str] | None
    image_size: int
    size: int
    views: Views
    mixture: int  # images in a view

    @functools.cached_property
    def network(self) -> Network:
        return Network(self.content, self.names)

    @functools.cached_property
    def draw(self) -> Callable[[list[list[bytes]], np.ndarray], tf.Tensor]:
        """The views of at most `BATCH` examples. A process traces it once: with every task, that took a fifth more."""

        signature = tf.TensorSpec([None, self.mixture], tf.string), tf.TensorSpec([None], tf.int64)

        @tf.function(input_signature=signature)
        def views(serialised: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
            rows = tf.data.Dataset.from_tensor_slices((serialised, numbers))
            return drawn(rows, self.image_size, self.size, self.views).get_single_element()

        return views


def _answer(teacher: _Teacher, examples: tuple[list[list[bytes]], np.ndarray]) -> Arrays:
    """On a node: the answers to `examples`, serialised, each with the number of its view."""
    rows, numbers = examples
    starts = range(0, len(rows), BATCH)
    batches = (teacher.draw(rows[start : start + BATCH], numbers[start : start + BATCH]).numpy() for start in starts)
    return joined([as_stored(teacher.network(batch)) for batch in batches])

"""Batches: training is one endless stream of them, validation a fixed list."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from distillation.data.records import Records, decode
from distillation.data.views import are_mixed, partners, plain, seen, splitmix64
from distillation.inference.answers import Answers
from distillation.params import Training, Views

IN_MEMORY = 5 * 2**29  # 2.5 GiB: decoded training images stay in memory up to this; a pass's answers come on top
VALIDATION_IN_MEMORY = IN_MEMORY // 4
SHUFFLED_AT_A_TIME = 2**30  # bytes of encoded images, about one a pixel, where the decoded ones don't fit

# From the number of steps already taken to the batches that follow.
Stream = Callable[[int], tf.data.Dataset]


def view_stream(
    records: Records,
    image_size: int,
    views: Views,
    count: int,
    settings: Training,
    answers: Answers | None = None,
    names: Sequence[str] = (),
) -> Stream:
    """Training batches of augmented views. Pass p over the images shows view p mod `count` of each.

    Args:
        records: n images of the training split.
        image_size: side of the views in pixels.
        views: the augmentation.
        count: how many views of each image there are.
        settings: batch size and seed.
        answers: the teacher's, to the same n images.
        names: those of its outputs that are wanted.

    Returns:
        A stream of `image` (batch, size, size, 3) float32 0..255, `label` (batch,) int64, and with `names` also
        `teacher`, a dict of (batch, ...) float32. Where views are mixed, there are also the other image's
        `partner_label` (batch,) int64 and `partner_share` (batch,) float32.
    """

    def parse(serialised: tf.Tensor) -> dict[str, tf.Tensor]:
        return decode(serialised, records.manifest.image_size)

    def to_batch(batch: dict) -> dict:
        examples = [batch[name] for name in ("example", "partner") if name in batch]
        image, share = seen(examples, batch["view"], image_size, views)
        prepared = {"image": image, "label": examples[0]["label"]}
        if share is not None:
            prepared |= {"partner_label": examples[1]["label"], "partner_share": share}
        if names:
            prepared["teacher"] = {name: tf.cast(values, tf.float32) for name, values in batch["teacher"].items()}
        return prepared

    # The first pass decodes, and keeps, an image once for its own view and once as another's partner.
    decoded = len(records) * records.manifest.image_size**2 * 3 * (1 + are_mixed(views, count))
    in_memory = decoded <= IN_MEMORY
    examples = records.dataset()
    if in_memory:
        examples = examples.map(parse, tf.data.AUTOTUNE).cache()

    def of_pass(number: tf.Tensor) -> tf.data.Dataset:
        view = number % count
        columns = {"example": examples}
        if are_mixed(views, count):
            columns["partner"] = partners(examples, view, views.seed)
        if names:
            columns["teacher"] = answers.dataset(view, names)
        buffer = len(records) if in_memory else SHUFFLED_AT_A_TIME // records.manifest.image_size**2
        shuffled = _shuffled(tf.data.Dataset.zip(columns), buffer, settings.seed, number)
        return shuffled.map(lambda row: row | {"view": view})

    def from_step(step: int) -> tf.data.Dataset:
        rows = _passes(of_pass, len(records), step * settings.batch_size)
        if not in_memory:
            serialised = [name for name in ("example", "partner") if name in rows.element_spec]
            rows = rows.map(lambda row: row | {name: parse(row[name]) for name in serialised}, tf.data.AUTOTUNE)
        return rows.batch(settings.batch_size, drop_remainder=True).map(to_batch, tf.data.AUTOTUNE)

    return from_step


def plain_batches(records: Records, image_size: int, batch_size: int) -> tf.data.Dataset:
    """The plain view `image` and the `label` of every image, in id order."""
    return records.batches(batch_size).map(
        lambda batch: {"image": plain(batch["image"], image_size), "label": batch["label"]}, tf.data.AUTOTUNE
    )


def first_batches(batches: tf.data.Dataset, count: int) -> tf.data.Dataset:
    """The first `count` of `batches`, kept in memory where they fit."""
    first = batches.take(count)
    largest = max(sum(values.nbytes for values in batch.values()) for batch in batches.take(1).as_numpy_iterator())
    return first.cache() if count * largest <= VALIDATION_IN_MEMORY else first


def _passes(of_pass: Callable[[tf.Tensor], tf.data.Dataset], length: int, first: int) -> tf.data.Dataset:
    """One pass after the other, each of `length` rows, from row `first` of them all; it does not end."""
    number, row = divmod(first, length)
    return tf.data.Dataset.range(number, tf.int64.max).flat_map(of_pass).skip(row)


def _shuffled(rows: tf.data.Dataset, buffer: int, seed: int, number: tf.Tensor) -> tf.data.Dataset:
    """`rows` in an order that is a function of `seed` and the number of the pass: a resumed run sees it again."""
    tf.compat.v1.set_random_seed(1)  # of this graph: else the process's seed has a say, and 0 takes no tensor beside it
    mixed = splitmix64(tf.constant(seed, tf.uint64), tf.cast(number + 1, tf.uint64))
    return rows.shuffle(buffer, seed=tf.bitcast(mixed, tf.int64), reshuffle_each_iteration=False)

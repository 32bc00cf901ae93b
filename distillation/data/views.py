"""Views: what a network sees of an image, as a pure function of (seed, image id, view number).

Because a view can be drawn again at any time and at any size, the teacher's answer to it can be
cached and still belong to what the student sees: a "consistent" teacher in the sense of Beyer et al.,
"Knowledge distillation: A good teacher is patient and consistent" (CVPR 2022).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from distillation.params import Budget, Views

MAX_ASPECT = 4 / 3  # of a random crop, either way
UNMIXED = 16  # first views of each image: where it has few, mixing them brings nothing (docs/results.md)
CENTRE = 0.8  # side of the centre crop, by the image's side: mean side of random crops at `views.augment.crop` 0.3


def number_of_views(budget: Budget, images: int) -> int:
    """How many views of each of so many images a student is shown in turn; the teacher answers all of these."""
    return max(1, round(budget.answered / images))


def augmented(images: tf.Tensor, ids: tf.Tensor, view: tf.Tensor, size: int, views: Views) -> tf.Tensor:
    """Random crop and flip of a batch, and `AUGMENTATIONS`, at `size` x `size`: bilinear, not antialiased (for speed).

    Args:
        images: (batch, height, width, 3) uint8 or float, 0..255.
        ids: (batch,) strings of 16 characters (`splits.image_id`).
        view: scalar or (batch,) integer, the number of the view.
        size: side of the result in pixels.
        views: strength of each augmentation, and the seed.

    Returns:
        (batch, size, size, 3) float32, 0..255.
    """
    with tf.device("CPU"):  # as in tf.data: Metal compiles nothing
        u = uniforms(views.seed, ids, view, 5 + sum(entry.uniforms for entry in AUGMENTATIONS.values()))
        boxes = _crop_boxes(u[:, :4], u[:, 4] < views.augment.flip, views.augment.crop)
        strengths = tuple(getattr(views.augment, name) for name in AUGMENTATIONS)
        return _view(images, boxes, u[:, 5:], size, strengths)


def are_mixed(views: Views, count: int) -> bool:
    """Whether some of `count` views of each image are mixed with views of other images."""
    return views.augment.mix > 0 and count > UNMIXED


def unmixed(views: Views) -> Views:
    """The same views, none mixed with another image's."""
    return Views(augment=views.augment.model_copy(update={"mix": 0}), seed=views.seed)


def of_partner(view: tf.Tensor) -> tf.Tensor:
    """The number of the view in which a partner is shown, by that of the mixed view: no image is shown in it alone."""
    return -1 - view


def partners(images: tf.data.Dataset, view: tf.Tensor, seed: int) -> tf.data.Dataset:
    """For each of n elements another one, with which its view number `view` (scalar int64) is mixed.

    It is the one that follows at a distance that depends on `seed` and `view`, so the pairs stream.
    """
    others = tf.maximum(images.cardinality() - 1, 1)
    drawn = splitmix64(tf.constant(seed, tf.uint64), tf.cast(view + 1, tf.uint64)) % tf.cast(others, tf.uint64)
    distance = 1 + tf.cast(drawn, tf.int64)
    return images.skip(distance).concatenate(images.take(distance))


def mixed(
    images: tf.Tensor, others: tf.Tensor, ids: tf.Tensor, view: tf.Tensor, views: Views
) -> tuple[tf.Tensor, tf.Tensor]:
    """Each view with a share of another image's: mixup (Zhang et al., 2018), as Beyer et al. distil with it.

    Args:
        images, others: (batch, size, size, 3) float32: views `view` and `of_partner(view)`, see `augmented`.
        ids: (batch,) strings of 16 characters, of `images`.
        view: scalar or (batch,) integer, the number of the view.
        views: the largest share, and the seed.

    Returns:
        (1 - share) `images` + share `others`, and the shares: (batch,) float32, uniform in 0..`views.augment.mix`, but
        0 in the first `UNMIXED` views.
    """
    share = views.augment.mix * uniforms(views.seed + 1, ids, view, 1)[:, 0]  # not what the crop is drawn from
    share = tf.where(view >= UNMIXED, share, 0.0)
    return images + share[:, None, None, None] * (others - images), share


def seen(
    examples: Sequence[dict[str, tf.Tensor]], view: tf.Tensor, size: int, views: Views
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """What teacher and student see of a batch in its view number `view`, each network at its own `size`.

    Args:
        examples: a batch of decoded images (`records.decode`) and, where views are mixed, one of their partners.
        view: scalar or (batch,) integer, the number of the view.
        size: side of the result in pixels.
        views: the augmentation.

    Returns:
        (batch, size, size, 3) float32, 0..255; and, where views are mixed, the partners' shares (see `mixed`).
    """
    numbers = (view, of_partner(view))[: len(examples)]
    images = [
        augmented(example["image"], example["id"], number, size, views)
        for example, number in zip(examples, numbers, strict=True)
    ]
    return mixed(*images, examples[0]["id"], view, views) if len(images) > 1 else (images[0], None)


def plain(images: tf.Tensor, size: int) -> tf.Tensor:
    """The middle of each image at `size` x `size`: (batch, size, size, 3) float32, 0..255.

    Random crops magnify what they show, so a network trained on them knows objects larger than they
    are in the whole image; a centre crop brings them to that size (Touvron et al., "Fixing the
    train-test resolution discrepancy", 2019). For the same reason it is resized as they are: antialiased,
    it would be smoother than what the network knows.
    """
    return tf.image.resize(tf.image.central_crop(images, CENTRE), (size, size))


def uniforms(seed: int, ids: tf.Tensor, view: tf.Tensor, count: int) -> tf.Tensor:
    """(batch, count) float32, uniform in [0, 1), by hashing (seed, id, view).

    The id and the view are folded into a state with SplitMix64's mixer; the numbers are then the
    SplitMix64 stream from that state (Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014). Stateless, so there is nothing to be restored on resuming.
    """
    words = tf.bitcast(tf.reshape(tf.io.decode_raw(ids, tf.int64), (-1, 2)), tf.uint64)
    state = tf.fill([tf.shape(words)[0]], tf.constant(seed, tf.uint64))
    for word in (words[:, 0], words[:, 1], tf.cast(view, tf.uint64)):
        state = _mix(tf.bitwise.bitwise_xor(_mix(state + _GOLDEN_GAMMA), word))
    steps = tf.range(1, count + 1, dtype=tf.int64)
    stream = splitmix64(state[:, None], tf.cast(steps, tf.uint64))
    # 24 bits are what a float32 holds without rounding up to 1.
    return tf.cast(tf.bitwise.right_shift(stream, tf.constant(40, tf.uint64)), tf.float32) * 2.0**-24


def splitmix64(seed: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    """The `step`-th number (from 1) of the SplitMix64 stream of `seed`; all uint64, broadcast."""
    return _mix(seed + step * _GOLDEN_GAMMA)


_GOLDEN_GAMMA = tf.constant(0x9E3779B97F4A7C15, tf.uint64)


def _mix(state: tf.Tensor) -> tf.Tensor:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = _xor_shift(state, shift) * tf.constant(factor, tf.uint64)
    return _xor_shift(state, 31)


def _xor_shift(state: tf.Tensor, shift: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, tf.constant(shift, tf.uint64)))


def _crop_boxes(u: tf.Tensor, flip: tf.Tensor, min_area: float) -> tf.Tensor:
    """(batch, 4) boxes y1, x1, y2, x2 in 0..1; x1 > x2 where the crop is mirrored."""
    area = min_area + (1 - min_area) * u[:, 0]
    longest = tf.minimum(math.log(MAX_ASPECT), -tf.math.log(area))  # so that the crop fits into the image
    aspect = tf.exp(longest * (2 * u[:, 1] - 1))
    height = tf.minimum(1.0, tf.sqrt(area / aspect))
    width = tf.minimum(1.0, tf.sqrt(area * aspect))
    top, left = (1 - height) * u[:, 2], (1 - width) * u[:, 3]
    right = left + width
    left, right = tf.where(flip, right, left), tf.where(flip, left, right)
    return tf.stack([top, left, top + height, right], axis=1)


def colour(images: tf.Tensor, u: tf.Tensor, strength: float) -> tf.Tensor:
    """Scale saturation, contrast (about mid-grey) and brightness by factors in 1 +- strength, and clip.

    One after the other they are x -> grey + s (x - grey), x -> 127.5 + c (x - 127.5) and x -> b x:
    together one affine map of RGB, which as a product of matrices takes a quarter of the time.
    """
    factors = 1 + strength * (2 * u - 1)
    saturation, contrast, brightness = (factors[:, i, None, None] for i in range(3))
    mixture = brightness * contrast * (saturation * tf.eye(3) + (1 - saturation) / 3)
    pixels = tf.reshape(images, (tf.shape(images)[0], -1, 3))
    pixels = tf.matmul(pixels, mixture) + 127.5 * brightness * (1 - contrast)
    return tf.reshape(tf.clip_by_value(pixels, 0.0, 255.0), tf.shape(images))


@dataclass(frozen=True)
class Augmentation:
    """`function(images (batch, size, size, 3) float32 0..255, u (batch, uniforms) in [0, 1), strength) -> images`.

    It works on views that are cropped and mirrored already, and XLA compiles it.
    """

    function: Callable[[tf.Tensor, tf.Tensor, float], tf.Tensor]
    uniforms: int  # how many random numbers it takes for each image


# By their names in `views.augment`, in the order in which they are applied. Each takes the next random numbers of an
# image: append new ones, so that the others' stay as they are. At strength 0 one is left out.
AUGMENTATIONS = {"colour": Augmentation(colour, uniforms=3)}


@tf.function(jit_compile=True)
def _view(images: tf.Tensor, boxes: tf.Tensor, u: tf.Tensor, size: int, strengths: tuple[float, ...]) -> tf.Tensor:
    """Crop as `tf.image.crop_and_resize` does, then augment; compiled together they take less than half its time."""
    y, down = _points(boxes[:, 0], boxes[:, 2], size, images.shape[1])
    x, right = _points(boxes[:, 1], boxes[:, 3], size, images.shape[2])
    rows = _interpolated(images, y, down[:, :, None, None], axis=1)
    views = _interpolated(rows, x, right[:, None, :, None], axis=2)
    used = 0
    for augmentation, strength in zip(AUGMENTATIONS.values(), strengths, strict=True):
        if strength:
            views = augmentation.function(views, u[:, used : used + augmentation.uniforms], strength)
        used += augmentation.uniforms
    return views


def _points(start: tf.Tensor, end: tf.Tensor, size: int, side: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Of `size` points from `start` to `end` (0..1 of `side` pixels): the pixel before each, and how far past it."""
    points = (start[:, None] + (end - start)[:, None] * tf.linspace(0.0, 1.0, size)) * (side - 1)
    before = tf.clip_by_value(tf.floor(points), 0, side - 2)
    return tf.cast(before, tf.int32), points - before


def _interpolated(images: tf.Tensor, before: tf.Tensor, past: tf.Tensor, axis: int) -> tf.Tensor:
    near, far = (tf.gather(images, pixels, axis=axis, batch_dims=1) for pixels in (before, before + 1))
    return tf.cast(near, tf.float32) * (1 - past) + tf.cast(far, tf.float32) * past

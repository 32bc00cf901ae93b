"""Views: the generator against published numbers, the crops against images on which they can be read off."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import changed, random_image
from PIL import Image
from scipy.ndimage import map_coordinates
from scipy.stats import binomtest, kstest

from distillation.data import views as module
from distillation.data.splits import image_id
from distillation.data.views import (
    AUGMENTATIONS,
    UNMIXED,
    Augmentation,
    are_mixed,
    augmented,
    colour,
    mixed,
    partners,
    plain,
    splitmix64,
    uniforms,
)
from distillation.params import Augment, Budget, Views

MASK = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15


def mix(state: int) -> int:
    """SplitMix64's mixer in Python's integers."""
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
    state = (state ^ state >> 27) * 0x94D049BB133111EB & MASK
    return state ^ state >> 31


def stream(seed: int, count: int) -> list[int]:
    return [mix(seed + step * GAMMA & MASK) for step in range(1, count + 1)]


def ids(count: int) -> np.ndarray:
    return np.array([image_id(b"%d" % number) for number in range(count)], dtype=bytes)


def ramps(count: int, side: int = 33) -> np.ndarray:
    """Images whose red is x and whose green is y, both from 0 to 200, so that a crop tells its box."""
    x, y = np.meshgrid(*2 * [np.linspace(0, 200, side, dtype=np.float32)])
    return np.broadcast_to(np.stack([x, y, np.full_like(x, 100)], axis=-1), (count, side, side, 3))


def boxes(count: int, views: Views, view: int = 0, size: int = 2) -> np.ndarray:
    """(count, 4): left, right, top, bottom of the crops in 0..1, left > right where the crop is flipped."""
    crops = augmented(ramps(count), ids(count), view, size, views).numpy() / 200
    return np.stack([crops[:, 0, 0, 0], crops[:, 0, -1, 0], crops[:, 0, 0, 1], crops[:, -1, 0, 1]], axis=1)


def strengths(views: Views, **values: float) -> Views:
    """`views` with other strengths of augmentations."""
    return changed(views, augment=views.augment.model_dump() | values)


@pytest.fixture
def views() -> Views:
    return Views(augment=Augment(crop=0.3, flip=0.5, colour=0.2), seed=7)


@pytest.fixture
def colourless(views: Views) -> Views:
    return strengths(views, colour=0)


def test_splitmix64_gives_the_published_stream():
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    numbers = splitmix64(tf.constant(1234567, tf.uint64), tf.constant([1, 2, 3, 4, 5], tf.uint64))
    assert numbers.numpy().tolist() == published


def test_splitmix64_equals_integer_arithmetic_for_any_seed():
    seeds = [0, 1, MASK, *np.random.default_rng(0).integers(0, MASK, 20, np.uint64, endpoint=True).tolist()]
    steps = np.arange(1, 9, dtype=np.uint64)
    numbers = splitmix64(np.array(seeds, np.uint64)[:, None], steps)
    assert numbers.numpy().tolist() == [stream(seed, 8) for seed in seeds]


def test_uniforms_are_the_stream_from_the_mixed_seed_id_and_view():
    names = ids(4)
    numbers = uniforms(42, names, tf.constant([0, 1, 2, 999]), 5).numpy()
    for row, name, view in zip(numbers, names, (0, 1, 2, 999), strict=True):
        state = 42
        for word in (int.from_bytes(name[:8], "little"), int.from_bytes(name[8:], "little"), view):
            state = mix(mix(state + GAMMA & MASK) ^ word)
        assert row.tolist() == [(number >> 40) / 2**24 for number in stream(state, 5)]


def test_uniforms_do_not_depend_on_the_rest_of_the_batch():
    names = ids(20)
    together = uniforms(3, names, 5, 8).numpy()
    order = np.random.default_rng(0).permutation(20)
    assert np.array_equal(uniforms(3, names[order], 5, 8), together[order])
    alone = [uniforms(3, names[number : number + 1], 5, 8)[0] for number in range(20)]
    assert np.array_equal(alone, together)
    assert np.array_equal(uniforms(3, names, tf.fill([20], 5), 4), together[:, :4])


def test_uniforms_differ_by_seed_id_and_view():
    names = ids(500)
    drawn = [uniforms(seed, names, view, 4).numpy() for seed in (0, 1, 2**31 - 1) for view in (0, 1, 2)]
    rows = np.concatenate(drawn)
    assert len(np.unique(rows, axis=0)) == len(rows)
    correlations = np.corrcoef(np.concatenate(drawn, axis=1), rowvar=False)
    assert np.abs(correlations - np.eye(len(correlations))).max() < 5 / np.sqrt(len(names))


def test_uniforms_are_uniform_in_the_half_open_unit_interval():
    numbers = uniforms(0, ids(4000), 1, 8).numpy()
    assert numbers.dtype == np.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert kstest(numbers.ravel(), "uniform").pvalue > 0.01
    assert min(kstest(column, "uniform").pvalue for column in numbers.T) > 0.001


def test_view_shows_the_same_crop_and_colours_at_any_size(views: Views):
    images = some_images(6)
    small = augmented(images, ids(6), 2, 17, views).numpy()
    large = augmented(images, ids(6), 2, 33, views).numpy()
    np.testing.assert_allclose(large[:, ::2, ::2], small, atol=0.05)
    bare = strengths(views, colour=0)
    np.testing.assert_allclose(boxes(50, bare, size=48), boxes(50, bare), atol=1e-5)


def test_view_of_an_image_does_not_depend_on_its_batch(views: Views):
    images = np.stack([random_image(np.random.default_rng(number), 40) for number in range(5)])
    together = augmented(images, ids(5), 1, 24, views).numpy()
    for number in (4, 0, 2):
        alone = augmented(images[number : number + 1], ids(5)[number : number + 1], 1, 24, views)
        np.testing.assert_allclose(alone[0], together[number], atol=1e-4)  # some CPUs multiply other ways in batches
    assert not np.array_equal(augmented(images, ids(5), 2, 24, views), together)


def test_crop_equals_interpolation_by_scipy(colourless: Views):
    image = random_image(np.random.default_rng(0), 40)
    crops = augmented(np.stack(8 * [image]), ids(8), 0, 20, colourless).numpy()
    for crop, (left, right, top, bottom) in zip(crops, boxes(8, colourless), strict=True):
        y, x = np.meshgrid(np.linspace(top, bottom, 20) * 39, np.linspace(left, right, 20) * 39, indexing="ij")
        for channel in range(3):
            expected = map_coordinates(image[..., channel].astype(float), [y, x], order=1, mode="nearest")
            np.testing.assert_allclose(crop[..., channel], expected, atol=0.1)


@pytest.mark.parametrize("least", [0.1, 0.3, 0.75, 0.95, 1])
def test_crops_show_at_least_that_share_and_stay_inside(colourless: Views, least: float):
    drawn = boxes(2000, strengths(colourless, crop=least))
    assert drawn.min() >= -1e-5
    assert drawn.max() <= 1 + 1e-5
    width, height = np.abs(drawn[:, 1] - drawn[:, 0]), drawn[:, 3] - drawn[:, 2]
    assert (width * height).min() >= least - 1e-4
    assert (width / height).min() >= 3 / 4 - 1e-3
    assert (width / height).max() <= 4 / 3 + 1e-3


def test_areas_shapes_and_places_of_crops_are_spread_evenly(colourless: Views):
    left, right, top, bottom = boxes(4000, strengths(colourless, crop=0.2)).T
    left, right = np.minimum(left, right), np.maximum(left, right)
    areas = (right - left) * (bottom - top)
    assert areas.max() > 0.95
    free = areas < 0.7  # so small that no shape meets the image's edges
    assert free.sum() > 2000
    left, right, top, bottom = left[free], right[free], top[free], bottom[free]
    width, height = right - left, bottom - top
    assert kstest(width * height, "uniform", (0.2, 0.5)).pvalue > 0.01
    assert kstest(np.log(width / height) / np.log(4 / 3), "uniform", (-1, 2)).pvalue > 0.01
    assert kstest(left / (1 - width), "uniform").pvalue > 0.01
    assert kstest(top / (1 - height), "uniform").pvalue > 0.01


@pytest.mark.parametrize("share", [0, 0.2, 0.5, 1])
def test_that_share_of_the_crops_is_flipped_and_they_show_the_same(colourless: Views, share: float):
    left, right, top, bottom = boxes(2000, strengths(colourless, flip=share)).T
    assert binomtest(int((left > right).sum()), 2000, share).pvalue > 0.001
    assert (left != right).all()
    upright = boxes(2000, strengths(colourless, flip=0))
    seen = np.stack([np.minimum(left, right), np.maximum(left, right), top, bottom], axis=1)
    np.testing.assert_allclose(seen, upright, atol=1e-5)


def test_colours_stay_in_range_and_grey_stays_grey(views: Views):
    vivid = strengths(views, colour=0.9)
    images = np.stack([random_image(np.random.default_rng(number), 40) for number in range(30)])
    seen = augmented(images, ids(30), 0, 20, vivid).numpy()
    assert seen.min() >= 0
    assert seen.max() <= 255
    assert (seen == 255).any()
    grey = augmented(images[..., :1].repeat(3, axis=-1), ids(30), 0, 20, vivid).numpy()
    np.testing.assert_allclose(grey[..., 0], grey[..., 2], atol=1e-3)


def test_brightness_contrast_and_saturation_vary_evenly_and_apart(views: Views):
    def seen(*colour: float) -> np.ndarray:
        images = np.broadcast_to(np.float32(colour), (1000, 2, 2, 3))
        return augmented(images, ids(1000), 0, 1, views).numpy()[:, 0, 0]

    brightness = seen(127.5, 127.5, 127.5)[:, 0] / 127.5  # mid-grey has no contrast, and grey no saturation
    contrast = (seen(160, 160, 160)[:, 0] / brightness - 127.5) / (160 - 127.5)
    coloured = seen(160, 128, 96)
    saturation = (coloured[:, 0] - coloured[:, 2]) / (brightness * contrast * (160 - 96))
    for factor in (brightness, contrast, saturation):
        assert kstest(factor, "uniform", (1 - views.augment.colour, 2 * views.augment.colour)).pvalue > 0.01
    assert np.abs(np.corrcoef([brightness, contrast, saturation]) - np.eye(3)).max() < 0.1


@pytest.mark.parametrize("size", [32, 48, 96])
def test_plain_view_is_the_centre_resized_as_pillow_does(size: int):
    images = np.stack([random_image(np.random.default_rng(number), 80) for number in range(3)])
    seen = plain(images, size).numpy()
    assert seen.shape == (3, size, size, 3)
    for view, image in zip(seen, images, strict=True):
        centre = Image.fromarray(image).crop((8, 8, 72, 72))  # 0.8 of the side
        how = (size, size), Image.Transform.EXTENT, (0, 0, 64, 64), Image.Resampling.BILINEAR
        expected = np.stack([band.convert("F").transform(*how) for band in centre.split()], axis=-1)
        np.testing.assert_allclose(view, expected, atol=0.01)


def test_colour_is_saturation_then_contrast_then_brightness_and_clipped_once():
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (40, 5, 5, 3)).astype(np.float32)
    u = rng.random((40, 3), np.float32)
    saturation, contrast, brightness = (1 + 0.8 * (2 * u.T.astype(float) - 1))[..., None, None, None]
    grey = images.mean(axis=-1, keepdims=True)
    expected = grey + saturation * (images - grey)
    expected = brightness * (127.5 + contrast * (expected - 127.5))
    assert expected.min() < 0
    assert expected.max() > 255
    np.testing.assert_allclose(colour(images, u, 0.8), expected.clip(0, 255), atol=0.01)


# Mixtures of two images


@pytest.fixture
def mixing(views: Views) -> Views:
    return strengths(views, mix=0.4)


def test_mixture_is_the_weighted_mean_of_two_views(mixing: Views):
    first, second = np.random.default_rng(0).uniform(0, 255, (2, 500, 3, 3, 3)).astype(np.float32)
    images, shares = (tensor.numpy() for tensor in mixed(first, second, ids(500), UNMIXED, mixing))
    weights = np.stack([1 - shares, shares]).astype(float)
    np.testing.assert_allclose(images, np.einsum("kn,knyxc->nyxc", weights, [first, second]), atol=1e-3)


@pytest.mark.parametrize("view", [UNMIXED, 50])
def test_shares_are_uniform_up_to_the_largest_and_apart_from_the_crop(mixing: Views, view: int):
    images = np.zeros((2000, 1, 1, 3), np.float32)
    _, shares = mixed(images, images, ids(2000), view, mixing)
    assert kstest(shares, "uniform", (0, 0.4)).pvalue > 0.01
    crop = uniforms(mixing.seed, ids(2000), view, 8).numpy().T
    assert np.abs(np.corrcoef([shares, *crop])[0, 1:]).max() < 0.08


def test_first_views_are_not_mixed(mixing: Views):
    first, second = some_images(2 * UNMIXED).astype(np.float32).reshape(2, UNMIXED, 40, 40, 3)
    images, shares = mixed(first, second, ids(UNMIXED), np.arange(UNMIXED), mixing)
    assert np.array_equal(images, first)
    assert np.array_equal(shares, np.zeros(UNMIXED))


def test_views_are_mixed_only_where_there_are_more_than_the_first_ones(views: Views, mixing: Views):
    assert [count for count in range(1, 20) if are_mixed(mixing, count)] == [*range(UNMIXED + 1, 20)]
    assert not are_mixed(views, 10**6)


@pytest.mark.parametrize("count", [2, 3, 7, 100])
def test_partners_are_all_images_but_none_is_its_own(count: int):
    pairings: set[tuple[int, ...]] = set()
    for view in range(30):
        found = [*partners(tf.data.Dataset.range(count), tf.constant(view, tf.int64), seed=5).as_numpy_iterator()]
        assert sorted(found) == [*range(count)]
        assert not any(partner == image for image, partner in enumerate(found))
        pairings.add(tuple(found))
    assert len(pairings) == count - 1 or (count == 100 and len(pairings) > 20)  # each distance is drawn


def test_image_that_is_alone_is_its_own_partner():
    assert [*partners(tf.data.Dataset.range(1), tf.constant(9, tf.int64), seed=0).as_numpy_iterator()] == [0]


# The table of augmentations


class WithMore(Augment):
    """Strengths with those of augmentations that tests append to the table."""

    shade: float
    mark: float = 0


def lengthened(views: Views, **values: float) -> Views:
    return views.model_copy(update={"augment": WithMore(**(views.augment.model_dump() | values))})


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, Augmentation]:
    """A copy of the table that a test may change: functions compiled with the old table are dropped."""
    copy = dict(AUGMENTATIONS)
    monkeypatch.setattr(module, "AUGMENTATIONS", copy)
    monkeypatch.setattr(module, "_view", tf.function(module._view.python_function, jit_compile=True))
    return copy


def shade(images: tf.Tensor, u: tf.Tensor, strength: float) -> tf.Tensor:
    """Fill the upper left pixel with an image's two numbers and the strength."""
    numbers = tf.concat([u, tf.fill([tf.shape(u)[0], 1], strength)], axis=1)[:, None, None]
    return tf.concat([tf.concat([numbers, images[:, :1, 1:]], axis=2), images[:, 1:]], axis=1)


def some_images(count: int = 6) -> np.ndarray:
    return np.stack([random_image(np.random.default_rng(number), 40) for number in range(count)])


def test_each_strength_is_of_something_and_each_augmentation_has_one():
    assert set(Augment.model_fields) == {"crop", "flip", "mix", *AUGMENTATIONS}


def test_at_strength_0_an_augmentation_is_left_out(views: Views, table: dict[str, Augmentation]):
    def trips(images: tf.Tensor, u: tf.Tensor, strength: float) -> tf.Tensor:
        pytest.fail("applied")

    bare = augmented(some_images(), ids(6), 0, 20, strengths(views, colour=0))
    table["shade"] = Augmentation(trips, uniforms=2)
    table["colour"] = Augmentation(trips, uniforms=3)
    seen = augmented(some_images(), ids(6), 0, 20, lengthened(views, colour=0, shade=0))
    np.testing.assert_allclose(seen, bare, atol=1e-4)
    with pytest.raises(pytest.fail.Exception, match="applied"):
        augmented(some_images(), ids(6), 0, 20, lengthened(views, colour=0, shade=1e-6))


def test_appended_augmentation_leaves_the_numbers_of_the_others_as_they_are(
    views: Views, table: dict[str, Augmentation]
):
    before = augmented(some_images(), ids(6), 1, 20, views).numpy()
    table["shade"] = Augmentation(shade, uniforms=2)
    np.testing.assert_allclose(augmented(some_images(), ids(6), 1, 20, lengthened(views, shade=0)), before, atol=1e-4)
    after = augmented(some_images(), ids(6), 1, 20, lengthened(views, shade=0.25)).numpy()
    corner = np.zeros((20, 20), bool)
    corner[0, 0] = True
    np.testing.assert_allclose(after[:, ~corner], before[:, ~corner], atol=1e-4)
    assert (np.abs(after[:, 0, 0] - before[:, 0, 0]) > 1e-3).any()


@pytest.mark.parametrize("strength", [0, 0.2])
def test_augmentation_takes_the_next_numbers_whether_those_before_it_are_left_out_or_not(
    views: Views, table: dict[str, Augmentation], strength: float
):
    table["shade"] = Augmentation(shade, uniforms=2)
    seen = augmented(some_images(), ids(6), 2, 20, lengthened(views, colour=strength, shade=0.25)).numpy()
    expected = uniforms(views.seed, ids(6), 2, 10).numpy()[:, 8:]  # 4 are the crop's, 1 the flip's, 3 of the colour
    np.testing.assert_array_equal(seen[:, 0, 0, :2], expected)
    assert (seen[:, 0, 0, 2] == 0.25).all()


def test_augmentations_are_applied_in_the_order_of_the_table(views: Views, table: dict[str, Augmentation]):
    table["shade"] = Augmentation(lambda images, u, strength: images * 0 + strength, uniforms=0)
    table["mark"] = Augmentation(lambda images, u, strength: 2 * images + strength, uniforms=0)
    seen = augmented(some_images(), ids(6), 0, 20, lengthened(views, shade=3, mark=0.5)).numpy()
    assert (seen == 6.5).all()


@pytest.mark.parametrize(
    ("images", "views"), [(1, 1000), (300, 3), (399, 3), (401, 2), (999, 1), (1000, 1), (1_000_000, 1)]
)
def test_views_share_the_answers_out_and_each_image_gets_one(images: int, views: int):
    assert module.number_of_views(Budget(answered=1000), images) == views

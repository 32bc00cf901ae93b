"""Images of every kind that people have, and files that hold no image."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from helpers import encoded, random_image, smooth_image
from PIL import Image, ImageOps, PngImagePlugin

from distillation.data.splits import NEAR_BITS
from distillation.errors import InputError
from distillation.sources import images
from distillation.sources.images import perceptual_hash, read_rgb, square_jpeg, to_square

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quadrants() -> np.ndarray:
    """32 high, 64 wide: red, green over blue, white; the four corners show its orientation."""
    rows = [np.repeat([left, right], 32, axis=0) for left, right in ((RED, GREEN), (BLUE, WHITE))]
    return np.repeat(rows, 16, axis=0).astype(np.uint8)


def assert_shows(image: Image.Image, expected: np.ndarray, tolerance: float = 0) -> None:
    assert image.mode == "RGB"
    pixels = np.asarray(image, int)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected.astype(int)).max() <= tolerance


def jpeg(size: int = 32, **options: object) -> bytes:
    image = Image.fromarray(random_image(np.random.default_rng(0), size))
    return encoded(image, "JPEG", quality=95, **options)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_rgb_comes_as_it_is(kind: str):
    assert_shows(read_rgb(encoded(Image.fromarray(quadrants()), kind)), quadrants())


def test_path_serves_as_well_as_bytes(tmp_path: Path):
    (tmp_path / "image").write_bytes(encoded(Image.fromarray(quadrants()), "PNG"))
    assert_shows(read_rgb(tmp_path / "image"), quadrants())


def test_grey_becomes_equal_channels():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert_shows(read_rgb(encoded(Image.fromarray(grey), "PNG")), grey[..., None].repeat(3, axis=-1))


def test_black_and_white_become_0_and_255():
    checks = np.indices((8, 8)).sum(axis=0) % 2 == 1
    assert_shows(read_rgb(encoded(Image.fromarray(checks), "PNG")), checks[..., None].repeat(3, axis=-1) * 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(kind: str):
    levels = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    expected = np.round(levels / 65535 * 255)[..., None].repeat(3, axis=-1)
    assert_shows(read_rgb(encoded(Image.fromarray(levels), kind)), expected, tolerance=1)


@pytest.mark.parametrize("values", [np.float32([[0, 0.5, 1]]), np.int32([[0, 200, 255]]), np.int32([[0, 2**31 - 1]])])
def test_grey_without_a_known_white_is_refused(values: np.ndarray):
    with pytest.raises(InputError, match=r"32-bit grey.* save it as PNG with 8 or 16 bits"):
        read_rgb(encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize(
    ("ink", "expected"),
    [((0, 0, 0, 0), WHITE), ((0, 255, 255, 0), RED), ((255, 255, 0, 0), BLUE), ((0, 0, 0, 255), (0, 0, 0))],
)
def test_cmyk_inks_take_away_their_colours(ink: tuple[int, ...], expected: tuple[int, ...]):
    image = np.broadcast_to(expected, (16, 16, 3))
    assert_shows(read_rgb(encoded(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100)), image, tolerance=3)


def test_transparent_colour_of_a_palette_shows_white():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([*BLUE, *RED])
    image.paste(0, (0, 0, 4, 8))
    expected = np.broadcast_to(RED, (8, 8, 3)).copy()
    expected[:, :4] = WHITE
    assert_shows(read_rgb(encoded(image, "PNG", transparency=0)), expected)
    expected[:, :4] = BLUE
    assert_shows(read_rgb(encoded(image, "PNG")), expected)


@pytest.mark.parametrize(("mode", "ink"), [("RGBA", (0, 0, 0)), ("LA", (0,))])
@pytest.mark.parametrize("opacity", [0, 51, 255])
def test_transparency_is_laid_on_white(mode: str, ink: tuple[int, ...], opacity: int):
    image = Image.new(mode, (8, 8), (*ink, opacity))
    assert_shows(read_rgb(encoded(image, "PNG")), np.full((8, 8, 3), 255 - opacity), tolerance=1)


# How an image is stored that its EXIF orientation sets upright (CIPA DC-008, tag 0x0112).
STORED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](quadrants())))
    content = encoded(stored, "JPEG", quality=100, subsampling=0, exif=exif)
    assert_shows(read_rgb(content), quadrants(), tolerance=4)


def test_tags_that_cannot_be_written_do_not_matter():
    # Orientation 6, and a horizontal resolution of -1/0, which cameras have written.
    entries = struct.pack("<HHIIHHIII", 0x0112, 3, 1, 6, 0x011A, 10, 1, 38, 0)
    tags = b"II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<ii", -1, 0)
    stored = Image.fromarray(np.ascontiguousarray(STORED[6](quadrants())))
    content = encoded(stored, "JPEG", quality=100, subsampling=0, exif=b"Exif\0\0" + tags)
    with Image.open(io.BytesIO(content)) as image, pytest.raises(Exception, match="out of range"):
        ImageOps.exif_transpose(image)
    assert_shows(read_rgb(content), quadrants(), tolerance=4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_does_not_matter(kind: str):
    """In a JPEG whose JFIF header has a resolution, Pillow leaves EXIF unread until it is asked for it."""
    content = encoded(Image.fromarray(quadrants()), kind, lossless=True, dpi=(72, 72), exif=b"Exif\0\0no TIFF file")
    with Image.open(io.BytesIO(content)) as image, pytest.raises(SyntaxError, match="not a TIFF file"):
        image.getexif()
    assert read_rgb(content).size == (64, 32)


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(content)) as animation:
        assert animation.n_frames == 2
    assert_shows(read_rgb(content), np.broadcast_to(RED, (8, 8, 3)))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow also speaks of what it could mend
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"])
def test_truncated_file_is_refused_wherever_it_ends(kind: str):
    content = encoded(Image.fromarray(random_image(np.random.default_rng(0), 64)), kind)
    for length in (len(content) // 2, len(content) // 4, 12):
        with pytest.raises(InputError) as caught:
            read_rgb(content[:length])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\0", b"Dear reader,\nthis is no image.\n", b"\xff\xd8\xff", b"GIF89a"])
def test_what_is_no_image_is_refused(content: bytes):
    for decode in (read_rgb, lambda content: square_jpeg(content, 32)):
        with pytest.raises(InputError):
            decode(content)


def test_image_of_a_kind_that_pillow_does_not_decode_is_refused():
    sizes, pixels = struct.pack("<7I", 124, 0, 16, 16, 0, 0, 0), struct.pack("<2I4s", 32, 4, b"NONE")
    with pytest.raises(InputError, match="cannot be decoded"):
        read_rgb(b"DDS " + sizes + bytes(44) + pixels + bytes(40))


def test_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(InputError):
        read_rgb(tmp_path / "nothing.jpg")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow also speaks of what it could mend
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP"])
def test_damaged_file_is_an_image_or_refused_and_nothing_else(kind: str):
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if kind == "GIF" else {"exif": exif}
    content = encoded(Image.fromarray(random_image(rng, 16)), kind, **options)
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 6)):
            damaged[place] = rng.integers(256)
        try:
            assert read_rgb(bytes(damaged)).mode == "RGB"
        except InputError as error:
            assert "\n" not in str(error)


@pytest.mark.filterwarnings("error")
def test_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for side in (32, 45):  # beyond the limit, where Pillow warns, and beyond twice the limit, where it refuses
        with pytest.raises(InputError, match=r"too many pixels.*1,000"):
            read_rgb(encoded(Image.new("RGB", (side, side)), "PNG"))
    assert read_rgb(encoded(Image.new("RGB", (31, 31)), "PNG")).size == (31, 31)


def test_jpeg_of_too_many_pixels_is_decoded_at_half_its_size(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    monkeypatch.setattr(images, "LARGE", 32)
    with pytest.warns(Image.DecompressionBombWarning):
        assert read_rgb(encoded(smooth_image(0, 64, 64), "JPEG")).size == (32, 32)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_jpeg_of_200_megapixels_is_read():
    """Phones make such photographs."""
    assert read_rgb(encoded(Image.new("L", (16320, 12240)), "JPEG")).size == (4080, 3060)


@pytest.mark.parametrize("length", [100, 70_000])
def test_comment_of_an_image_is_not_stored(length: int):
    """Pillow refuses to write some long comments, and never ends with others."""
    plain, text = io.BytesIO(), PngImagePlugin.PngInfo()
    text.add_text("comment", "c" * length)
    smooth_image(0).save(plain, "PNG")
    assert square_jpeg(encoded(smooth_image(0), "PNG", pnginfo=text), 32) == square_jpeg(plain.getvalue(), 32)


def test_bytes_that_are_right_come_back_untouched():
    content = jpeg(32)
    assert square_jpeg(content, 32) == content


def test_right_looking_file_that_is_broken_is_refused():
    content = jpeg(32)
    with pytest.raises(InputError):
        square_jpeg(content[: len(content) // 2], 32)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(32, exif=exif)


@pytest.mark.parametrize(
    "content",
    [
        jpeg(40),
        rotated(),
        encoded(Image.new("L", (32, 32), 7), "JPEG"),
        encoded(Image.new("CMYK", (32, 32)), "JPEG"),
        encoded(Image.new("RGB", (32, 32), RED), "PNG"),
        encoded(Image.fromarray(quadrants()), "JPEG"),
    ],
    ids=["larger", "rotated", "grey", "cmyk", "png", "oblong"],
)
def test_anything_else_becomes_a_square_rgb_jpeg(content: bytes):
    written = square_jpeg(content, 32, "squeeze")
    assert written != content
    with Image.open(io.BytesIO(written)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))
        assert not image.getexif()
    expected = read_rgb(content).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(read_rgb(written), float) - np.asarray(expected, float)).mean() < 3
    assert square_jpeg(written, 32) == written


@pytest.mark.parametrize("shape", [(96, 32), (32, 96), (97, 32), (3000, 1000)])
def test_of_an_oblong_image_the_middle_square_is_kept_or_all_of_it(shape: tuple[int, int]):
    middle, image = min(shape), Image.new("RGB", shape, RED)
    left, top = (round((side - middle) / 2) for side in shape)
    image.paste(BLUE, (left, top, left + middle, top + middle))
    cropped = to_square(image, 64, "crop")
    assert_shows(cropped.crop((2, 2, 62, 62)), np.broadcast_to(BLUE, (60, 60, 3)))
    squeezed = np.asarray(to_square(image, 64, "squeeze"))
    assert (squeezed == BLUE).all(axis=-1).mean() == pytest.approx(1 / 3, abs=0.08)
    assert (squeezed == RED).all(axis=-1).mean() == pytest.approx(2 / 3, abs=0.08)


@pytest.mark.parametrize("size", [16, 40, 64])
def test_a_square_image_is_scaled_alike_either_way(size: int):
    image = smooth_image(0, 40, 40)
    assert to_square(image, size, "crop").tobytes() == to_square(image, size, "squeeze").tobytes()


def bits_apart(one: Image.Image, other: Image.Image, **options: object) -> int:
    mine, theirs = perceptual_hash(encoded(one, "PNG")), perceptual_hash(encoded(other, "JPEG", **options))
    return (mine ^ theirs).bit_count()


@pytest.mark.parametrize("seed", range(5))
def test_perceptual_hash_sees_through_scale_compression_and_brightness_but_not_another_image(seed: int):
    image = smooth_image(seed)
    assert bits_apart(image, image.resize((64, 64)), quality=95) <= NEAR_BITS
    assert bits_apart(image, image, quality=40) <= NEAR_BITS
    assert bits_apart(image, image.point(lambda value: 20 + 0.8 * value), quality=95) <= NEAR_BITS
    assert bits_apart(image, smooth_image(seed + 100), quality=95) > 3 * NEAR_BITS
    assert bits_apart(image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), quality=95) > 3 * NEAR_BITS

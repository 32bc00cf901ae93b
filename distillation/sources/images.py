"""Decoding images of every kind, as square RGB."""

import hashlib
import io
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps
from scipy.fft import dctn

from distillation.errors import InputError, reason

Image.MAX_IMAGE_PIXELS = 10**8  # Pillow opens nothing of more than twice as many; phones make 200 megapixels
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `_too_large` decides
JPEG_QUALITY = 95
LARGE = 2048  # pixels: a side that is more than enough
_TURN = Image.Transpose
_UPRIGHT = {  # what makes an image upright, by its orientation in EXIF
    2: _TURN.FLIP_LEFT_RIGHT,
    3: _TURN.ROTATE_180,
    4: _TURN.FLIP_TOP_BOTTOM,
    5: _TURN.TRANSPOSE,
    6: _TURN.ROTATE_270,
    7: _TURN.TRANSVERSE,
    8: _TURN.ROTATE_90,
}


def read_rgb(source: bytes | Path | BinaryIO, least: int | None = None) -> Image.Image:
    """Decode `source` (encoded bytes, a path, or an open file) to an upright 8-bit RGB image.

    EXIF rotation is applied, transparency is laid on white, 16-bit grey is scaled down, and of an animation the first
    frame is taken. With `least`, a large JPEG is decoded at a half, a quarter or an eighth of its size, which is
    quicker; no side gets smaller than that many pixels. So is one of too many pixels. Raises `InputError` where it
    cannot be decoded: not an image, truncated, empty, 32-bit grey, or still too many pixels.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if least or _too_large(image):
                image.draft(None, (least or LARGE, least or LARGE))  # nothing happens unless it is a JPEG
            if _too_large(image):
                raise Image.DecompressionBombError
            image.load()
            # Not ImageOps.exif_transpose, which writes all tags anew, and fails on those of some cameras.
            upright = _UPRIGHT.get(_orientation(image))
            return _to_rgb(image if upright is None else image.transpose(upright))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"too many pixels (the limit is {Image.MAX_IMAGE_PIXELS:,})") from None
    except Image.UnidentifiedImageError:
        raise InputError("not an image that Pillow can read") from None
    except MemoryError:  # the machine's problem, not the image's
        raise
    except Exception as error:  # Pillow may raise anything for a damaged file
        raise InputError(f"cannot be decoded ({reason(error)})") from None


def perceptual_hash(encoded: bytes) -> int:
    """64 bits that stay nearly the same when an image is scaled, recompressed or recoloured.

    Each bit says whether one of the 64 lowest spatial frequencies of the grey image exceeds their median (pHash:
    Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010, section 3.2.1). An image of one
    colour has no such frequencies: its bits are a digest of its bytes, so it resembles nothing but its copies.
    """
    grey = np.asarray(read_rgb(encoded).convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.float32)
    if np.ptp(grey) <= 1:
        return int.from_bytes(hashlib.sha256(encoded).digest()[:8])
    low = dctn(grey)[:8, :8].ravel()
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes())


def to_square(image: Image.Image, size: int, oblong: str) -> Image.Image:
    """`image` at `size` x `size`, bilinearly: of an oblong one the middle square (`crop`), or all (`squeeze`)."""
    if oblong == "squeeze":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)


def square_jpeg(encoded: bytes, size: int, oblong: str = "crop") -> bytes:
    """Re-encode an image as a `size` x `size` RGB JPEG (see `to_square`).

    Bytes that are just that already come back untouched: nothing is compressed twice. They are
    decoded all the same, so that a broken file is found here and not in the middle of training.
    """
    image = read_rgb(encoded)
    with Image.open(io.BytesIO(encoded)) as original:
        is_stored = (original.format, original.mode, original.size) == ("JPEG", "RGB", (size, size))
        if is_stored and _orientation(original) not in _UPRIGHT:
            return encoded
    output = io.BytesIO()
    # Without the image's comment, which Pillow would keep: of a long one its encoder never ends.
    to_square(image, size, oblong).save(output, "JPEG", quality=JPEG_QUALITY, subsampling=0, comment=b"")
    return output.getvalue()


def _too_large(image: Image.Image) -> bool:
    return image.width * image.height > Image.MAX_IMAGE_PIXELS  # Pillow raises only beyond twice as many


def _orientation(image: Image.Image) -> int | None:
    """That of EXIF, or None where it has none, or where it is broken: then the image shows all the same."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except MemoryError:
        raise
    except Exception:  # Pillow may raise anything for a damaged block
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ValueError("32-bit grey, of which no value is known to be white; save it as PNG with 8 or 16 bits")
    if image.mode.startswith("I;16"):  # Pillow would clip it at 255 instead of scaling it
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # no copy of a large photograph

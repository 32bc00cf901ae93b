"""Pet Sketches: a TFDS data set of 10,000 cartoon cats and dogs, drawn here, never downloaded.

Each image is a pure function of its number. Only its `Traits` depend on the label, and every trait overlaps: dogs may
have slit pupils, and cats may lack whiskers. A classifier that knew all traits exactly would be right about 98 times in
100; occlusion, blur and small scale make it harder. Coarse traits (ears, head) tell less than fine ones (pupils, nose,
mouth, whiskers), so a larger network can do better.
"""

import dataclasses
import functools
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from distillation.console import progress

Colour = tuple[int, ...]
Point = tuple[float, float]
Corners = np.ndarray | Sequence[Point]

CLASSES = ("cat", "dog")
TRAIN, TEST = 4_000, 6_000  # images of each split: a test so large tells two students apart
SIZE = 96
CANVAS = 3 * SIZE  # drawn large, then scaled down: Pillow's lines have hard edges
JPEG_QUALITY = 90
SEED = 1867

OCCLUDED = 0.2  # share of images with something in front of the head
BLURRED = 0.2
NOISE = 12.0  # largest standard deviation of the sensor noise, in grey levels
RADIUS = (0.28, 0.42)  # of the head, by the image's width
SHIFT = 0.05  # standard deviation of the head's centre, by the image's width
TILT = 0.15  # standard deviation of the head's angle, in radians

COATS = (  # coat, markings, light parts
    ((234, 154, 78), (184, 98, 40), (255, 235, 210)),
    ((156, 161, 172), (98, 103, 120), (236, 236, 240)),
    ((74, 71, 82), (42, 40, 50), (238, 234, 228)),
    ((242, 222, 188), (204, 160, 112), (255, 249, 238)),
    ((158, 110, 74), (100, 64, 42), (238, 214, 184)),
    ((246, 244, 240), (168, 152, 142), (255, 255, 255)),
    ((128, 150, 180), (84, 100, 136), (226, 234, 244)),
    ((212, 178, 138), (110, 82, 68), (250, 236, 216)),
)
IRISES = ((120, 178, 92), (226, 180, 60), (110, 170, 214), (150, 100, 60), (250, 250, 246))
NOSE_COLOURS = ((222, 132, 140), (70, 52, 54), (150, 92, 84))
BRIGHT = ((214, 74, 72), (76, 132, 192), (244, 190, 66), (110, 168, 98), (156, 106, 176))
PALE = ((250, 240, 220), (206, 226, 238), (226, 238, 208), (246, 216, 214), (224, 214, 238))
INKS = ((48, 40, 44), (84, 58, 46), (44, 52, 84))
WHITE, PINK, GREEN, WOOD = (255, 255, 255), (236, 132, 140), (110, 168, 98), (206, 168, 124)

# Corners of shapes, (x, y) with y downwards, which `Pen` rounds off. Ears are right ears, and stand on the line y = 0.
ROUND = np.array([(np.cos(turn), np.sin(turn)) for turn in np.arange(0, 2 * np.pi, np.pi / 5)])
EARS = {
    "pointed": [(0.2, -0.1), (0.58, -0.85), (0.72, -1.05), (0.8, -0.85), (0.95, 0.2)],
    "pricked": [(0.15, -0.1), (0.4, -0.85), (0.72, -1.0), (0.98, -0.6), (1.0, 0.25)],
    "folded": [(0.2, -0.1), (0.5, -0.8), (0.9, -0.6), (0.95, 0.2)],
    "floppy": [(0.5, -0.3), (0.95, -0.3), (1.3, 0.4), (1.3, 1.1), (0.95, 1.1), (0.8, 0.3)],
}
EAR_INSIDES = {
    "pointed": [(0.42, -0.2), (0.62, -0.7), (0.7, -0.8), (0.82, 0.0)],
    "pricked": [(0.36, -0.2), (0.52, -0.68), (0.72, -0.78), (0.88, 0.0)],
    "folded": [(0.46, -0.62), (0.8, -0.85), (1.2, -0.2), (1.1, 0.0), (0.75, -0.3)],
}
NOSES = {
    "triangle": np.array([(-1.5, -1), (1.5, -1), (0, 1.4)]),
    "heart": np.array([(-1.1, -0.9), (0, -0.3), (1.1, -0.9), (1.3, 0), (0, 1.4), (-1.3, 0)]),
    "oval": ROUND * (1.25, 0.85),
}
BLAZE = np.array([(-0.1, -1.1), (0.1, -1.1), (0.2, -0.1), (0.9, 1.1), (-0.9, 1.1), (-0.2, -0.1)])
TAIL = np.array([(0.4, 2.6), (1.2, 2.6), (1.5, 1.9), (1.3, 1.2), (1.6, 0.7)])
TORSO = [(-0.5, 0.4), (0.5, 0.4), (1, 1.8), (0.9, 2.8), (-0.9, 2.8), (-1, 1.8)]
KNOBS = [(-0.8, -0.2), (-1, -0.7), (-1.5, -0.3), (-1.2, 0), (-1.5, 0.3), (-1, 0.7), (-0.8, 0.2)]
BONE = np.concatenate([KNOBS, np.negative(KNOBS)])
LEAF = [(-1.7, 0), (-0.6, -0.7), (0.8, -0.6), (1.8, 0.1), (0.6, 0.6), (-0.8, 0.6)]
BLADE = np.array([(0, 0.3), (-0.4, -0.8), (0, -1.5), (0.3, -0.7)])
POT = [(-0.7, 0.2), (0.7, 0.2), (0.5, 1.1), (-0.5, 1.1)]
HAT = [(-0.5, -0.75), (-0.05, -1.7), (0.1, -1.7), (0.5, -0.75)]
SQUARE = [(-1, -1), (-1, -1), (1, -1), (1, -1), (1, 1), (1, 1), (-1, 1), (-1, 1)]


def _choice(**chances: tuple[float, float]) -> Any:
    """A trait with named values, each with its probability (for a cat, for a dog)."""
    return dataclasses.field(metadata={"chances": chances})


def _normal(cat: float, dog: float, deviation: float, low: float, high: float) -> Any:
    """A trait with a clipped normal distribution about a mean for cats and one for dogs."""
    return dataclasses.field(metadata={"means": (cat, dog), "rest": (deviation, low, high)})


@dataclasses.dataclass(frozen=True)
class Traits:
    """All that depends on the label."""

    ears: str = _choice(pointed=(0.74, 0.05), pricked=(0.14, 0.10), folded=(0.07, 0.25), floppy=(0.05, 0.60))
    nose: str = _choice(triangle=(0.66, 0.14), heart=(0.22, 0.24), oval=(0.12, 0.62))
    mouth: str = _choice(w=(0.58, 0.14), blep=(0.16, 0.10), smile=(0.16, 0.34), pant=(0.10, 0.42))
    whiskers: str = _choice(none=(0.16, 0.60), short=(0.20, 0.24), long=(0.64, 0.16))
    pattern: str = _choice(plain=(0.3, 0.3), tabby=(0.3, 0.1), patches=(0.1, 0.3), blaze=(0.2, 0.2), mask=(0.1, 0.1))
    pupil: float = _normal(0.40, 0.76, 0.19, 0.14, 1.0)  # width by height
    muzzle: float = _normal(0.32, 0.62, 0.24, 0.0, 1.2)  # size
    snout: float = _normal(0.36, 0.54, 0.20, 0.0, 1.0)  # how far down the muzzle sits
    nose_size: float = _normal(0.11, 0.16, 0.04, 0.07, 0.26)
    head_width: float = _normal(1.10, 1.03, 0.09, 0.85, 1.3)

    @classmethod
    def sample(cls, rng: np.random.Generator, label: int) -> "Traits":
        """Draws traits for label 0 (cat) or 1 (dog)."""
        drawn = {}
        for field in dataclasses.fields(cls):
            if chances := field.metadata.get("chances"):
                drawn[field.name] = str(rng.choice([*chances], p=np.array([*chances.values()])[:, label]))
            else:
                deviation, *limits = field.metadata["rest"]
                value = rng.normal(field.metadata["means"][label], deviation)
                drawn[field.name] = float(np.clip(value, *limits))
        return cls(**drawn)


@dataclasses.dataclass(frozen=True)
class Look:
    """What the classes share: colours, and which way the head is turned."""

    coat: Colour
    marking: Colour
    light: Colour
    muzzle: Colour
    turn: float  # -0.3 (to the left) to 0.3

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Look":
        tint = rng.normal(0, 9, 3)
        coat, marking, light = (_tinted(colour, tint) for colour in _pick(rng, COATS))
        return cls(coat, marking, light, _pick(rng, (light, light, coat)), rng.uniform(-0.3, 0.3))


@functools.cache
def _smoothing(corners: int, closed: bool) -> np.ndarray:
    """The matrix that turns corners into points of a smooth curve: Chaikin's corner cutting."""
    points = np.eye(corners)
    for _ in range(2):
        after = np.roll(points, -1, axis=0)
        cut = np.stack([0.75 * points + 0.25 * after, 0.25 * points + 0.75 * after], 1)
        first, last, points = points[:1], points[-1:], cut.reshape(-1, corners)
        if not closed:
            points = np.concatenate([first, points[:-2], last])
    return points


@dataclasses.dataclass(frozen=True)
class Pen:
    """Draws wobbly shapes in units of its own: the origin is `centre`, the unit is `radius` pixels, y is downwards."""

    canvas: Image.Image
    rng: np.random.Generator
    ink: Colour
    line: float
    wobble: float
    centre: Point = (0.0, 0.0)
    radius: float = 1.0
    angle: float = 0.0

    def at(self, centre: Sequence[float], radius: float, angle: float = 0.0) -> "Pen":
        return dataclasses.replace(self, centre=tuple(centre), radius=radius, angle=angle)

    def _curve(self, corners: Corners, closed: bool) -> list[float]:
        wobbly = self.rng.normal(corners, self.wobble)
        cos, sin = np.cos(self.angle) * self.radius, np.sin(self.angle) * self.radius
        placed = wobbly @ np.array([[cos, sin], [-sin, cos]]) + self.centre
        return (_smoothing(len(corners), closed) @ placed).ravel().tolist()

    def shape(self, corners: Corners, fill: Colour, outline: bool = True) -> None:
        curve = self._curve(corners, closed=True)
        draw = ImageDraw.Draw(self.canvas)
        draw.polygon(curve, fill)
        if outline:
            draw.line(curve + curve[:2], self.ink, round(self.line))

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Colour, **options: bool) -> None:
        self.shape(ROUND * (rx, ry) + (x, y), fill, **options)

    def stroke(self, corners: Corners, width: float = 1, ink: Colour | None = None) -> None:
        curve = self._curve(corners, closed=False)
        ImageDraw.Draw(self.canvas).line(curve, ink or self.ink, max(1, round(width * self.line)))


def _pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    return options[rng.integers(len(options))]


def _tinted(colour: Colour, tint: np.ndarray) -> Colour:
    return tuple(int(level) for level in np.clip(colour + tint, 0, 255))


def _background(rng: np.random.Generator) -> Image.Image:
    first, second = (_tinted(_pick(rng, PALE), rng.normal(0, 14, 3)) for _ in range(2))
    ramp = Image.linear_gradient("L").resize((CANVAS, CANVAS), Image.Resampling.BILINEAR)
    ramp = ramp.rotate(90 * rng.integers(4))
    canvas = ImageOps.colorize(ramp, first, _pick(rng, (second, WHITE)))
    draw = ImageDraw.Draw(canvas)
    step, horizon = (rng.uniform((0.09, 0.5), (0.2, 0.85)) * CANVAS).astype(int).tolist()
    kind = rng.choice(["gradient", "stripes", "dots", "paper", "grass", "room"])
    if kind == "stripes":
        for x in range(0, CANVAS, 2 * step):
            draw.rectangle([x, 0, x + step, CANVAS], second)
    elif kind == "dots":
        for y in range(0, CANVAS + step, step):
            for x in range(y % (2 * step) // 2, CANVAS + step, step):
                draw.circle((x, y), step // 5, second)
    elif kind == "paper":
        for y in range(step, CANVAS, step // 2):
            draw.line([0, y, CANVAS, y], (168, 196, 224), 2)
        draw.line([step, 0, step, CANVAS], (232, 150, 150), 2)
    elif kind == "grass":
        draw.rectangle([0, horizon, CANVAS, CANVAS], (150, 196, 112))
        for x in rng.integers(0, CANVAS, 40).tolist():
            draw.line([x, horizon + 9, x + 4, horizon - 12], GREEN, 4)
    elif kind == "room":
        draw.rectangle([0, horizon, CANVAS, CANVAS], WOOD, INKS[1], 3)
        x = int(rng.integers(0, CANVAS - 90))
        draw.rectangle([x, horizon - 130, x + 90, horizon - 50], (190, 222, 244), INKS[1], 4)
    return canvas


def _toy(pen: Pen) -> None:
    """Toys, bones included, are as likely beside a cat as beside a dog."""
    colour, kind = _pick(pen.rng, BRIGHT), pen.rng.choice(["ball", "yarn", "plant", "bone", "fish"])
    if kind == "plant":
        for lean in (-0.8, 0.0, 0.8):
            pen.shape(BLADE + np.outer((0, 1, 1, 1), (lean, 0)), GREEN)
        pen.shape(POT, colour)
    elif kind == "bone":
        pen.shape(BONE, (252, 246, 230))
    elif kind == "fish":
        pen.shape([(0.5, 0), (1.3, -0.6), (1.2, 0.6)], colour)
        pen.oval(-0.2, 0, 0.9, 0.5, colour)
        pen.oval(-0.7, -0.1, 0.08, 0.08, pen.ink)
    else:
        pen.oval(0, 0, 1, 1, colour)
        for bend in (-0.5, 0.0, 0.5) if kind == "yarn" else (0.2,):
            pen.stroke([(-0.9, bend), (0, bend - 0.5), (0.9, bend)], 0.8)


def _body(pen: Pen, look: Look) -> None:
    """A sitting body below the head; it does not depend on the class."""
    tail = np.concatenate([TAIL, TAIL[::-1] - (0.3, 0.1)])
    pen.shape(tail * (_pick(pen.rng, (-1, 1)) * pen.rng.uniform(0.8, 1.2), 1), look.coat)
    pen.shape(TORSO, look.coat)
    pen.oval(0, 1.55, 0.42, 0.7, look.light, outline=False)
    for x in (-0.36, 0.36):
        pen.stroke([(x - 0.2, 1.7), (x - 0.2, 2.6)], 0.8)
        pen.oval(x, 2.7, 0.34, 0.22, look.light)


def _ears(pen: Pen, traits: Traits, look: Look) -> None:
    tall, floppy = pen.rng.uniform(0.85, 1.2), traits.ears == "floppy"
    inside = look.marking if traits.ears == "folded" else PINK
    for wide in (-traits.head_width, traits.head_width):
        for part, colour in (EARS, look.marking if floppy else look.coat), (EAR_INSIDES, inside):
            if traits.ears in part:
                pen.shape(np.multiply(part[traits.ears], (wide, tall)) - (0, 0.5), colour)


def _head(pen: Pen, traits: Traits, look: Look) -> None:
    """The head, with a mask that keeps its markings within it."""
    oval = (0, 0, traits.head_width * 1.03, 0.93)
    pen.oval(*oval, look.coat)
    mask = Image.new("L", pen.canvas.size)
    dataclasses.replace(pen, canvas=mask).oval(*oval, (255,), outline=False)
    marked = dataclasses.replace(pen, canvas=pen.canvas.copy(), ink=look.marking)
    _pattern(marked, traits, look)
    pen.canvas.paste(marked.canvas, mask=mask)


def _pattern(pen: Pen, traits: Traits, look: Look) -> None:
    turn, side = look.turn, _pick(pen.rng, (-1, 1))
    if traits.pattern == "tabby":
        for x in (-0.3, 0, 0.3):
            pen.stroke([(turn + x, -0.95), (turn + 0.7 * x, -0.45)], 3)
            for cheek in (-1, 1):
                pen.stroke([(cheek * 1.1, x + 0.1), (cheek * 0.75, 0.8 * x + 0.2)], 2.5)
    elif traits.pattern == "patches":
        pen.oval(0.42 * side + turn * 0.5, -0.15, 0.4, 0.42, look.marking, outline=False)
        pen.oval(-0.7 * side, -0.7, 0.4, 0.4, look.marking, outline=False)
    elif traits.pattern == "blaze":
        pen.shape(np.add(BLAZE, (0.6 * turn, 0)), look.light, outline=False)
    elif traits.pattern == "mask":
        pen.oval(turn * 0.8, 0.3, 0.62, 0.62, look.marking, outline=False)


def _eyes(pen: Pen, traits: Traits, look: Look) -> None:
    iris, r, mood = _pick(pen.rng, IRISES), pen.rng.uniform(0.17, 0.25), pen.rng.random()
    for side, closed in (-1, mood < 0.14), (1, mood < 0.08):
        x, y = 0.42 * side + 0.5 * look.turn, -0.14
        if closed:
            pen.stroke([(x - r, y), (x - r / 2, y - 0.15), (x + r / 2, y - 0.15), (x + r, y)], 1.4)
            continue
        pen.oval(x, y, r, r * 1.1, iris)
        pen.oval(x, y, 0.85 * r * traits.pupil, 0.9 * r, pen.ink, outline=False)
        pen.oval(x + 0.3 * r, y - 0.4 * r, 0.22 * r, 0.22 * r, WHITE, outline=False)


def _muzzle(pen: Pen, traits: Traits, look: Look) -> None:
    x, y = look.turn * 0.9, 0.34 + 0.2 * traits.snout
    width, height = 0.34 + 0.2 * traits.muzzle, 0.2 + 0.2 * traits.muzzle
    pen.oval(x, y, width, height, look.muzzle, outline=False)
    top, lip = y - 0.7 * height, y + 0.25 * height
    if traits.mouth in ("pant", "blep"):
        tip = lip + (0.42 if traits.mouth == "pant" else 0.2)
        pen.shape([(x - 0.13, lip), (x + 0.13, lip), (x + 0.13, tip), (x - 0.13, tip)], PINK)
    pen.stroke([(x, top), (x, lip)])
    for end in (-0.75 * width, 0.75 * width):
        if traits.mouth in ("w", "blep"):
            down = [(x + end / 3, lip + 0.14), (x + end, lip + 0.1), (x + end, lip)]
        else:
            down = [(x + end, lip), (x + 1.2 * end, lip - 0.16)]
        pen.stroke([(x, lip), *down])
    r, colour = traits.nose_size, _pick(pen.rng, NOSE_COLOURS)
    pen.shape(NOSES[traits.nose] * r + (x, top), colour)


def _whiskers(pen: Pen, traits: Traits, look: Look) -> None:
    ink, y = _pick(pen.rng, (pen.ink, WHITE)), 0.36 + 0.2 * traits.snout
    long = {"none": 0, "short": 0.38, "long": 0.75}[traits.whiskers]
    for side in (-1, 1) if long else ():
        x = look.turn * 0.9 + side * 0.36
        for fan in (-0.14, 0.0, 0.14):
            pen.stroke([(x, y + 0.5 * fan), (x + side * long, y + 1.8 * fan)], 0.5, ink)


def _finery(pen: Pen) -> None:
    kind, colour = pen.rng.choice(["collar", "bow", "hat", *4 * ["none"]]), _pick(pen.rng, BRIGHT)
    if kind == "collar":
        pen.stroke([(-0.7, 0.82), (-0.3, 1.0), (0.3, 1.0), (0.7, 0.82)], 4, colour)
        pen.oval(0, 1.08, 0.14, 0.14, BRIGHT[2])
    elif kind == "bow":
        x = _pick(pen.rng, (-0.6, 0.6))
        for side in (-0.5, 0.5):
            pen.shape([(x, -0.85), (x + side, -1.15), (x + side, -0.6)], colour)
        pen.oval(x, -0.86, 0.13, 0.13, colour)
    elif kind == "hat":
        pen.shape(HAT, colour)
        pen.oval(0.02, -1.5, 0.16, 0.16, WHITE)


def _occluder(pen: Pen) -> None:
    kind = pen.rng.choice(["cushion", "leaf", "box"])
    if kind == "leaf":
        pen.shape(LEAF, GREEN)
        pen.stroke([(-1.5, 0), (0, 0.05), (1.6, 0.05)])
    elif kind == "box":
        pen.shape(SQUARE, WOOD)
        pen.stroke([(-1, -0.4), (1, -0.4)])
        pen.stroke([(0, -1), (0, -0.4)], 3, PALE[0])
    else:
        pen.shape(SQUARE, _pick(pen.rng, BRIGHT))
        for x, y in ((-0.5, -0.5), (0.5, -0.5), (0, 0), (-0.5, 0.5), (0.5, 0.5)):
            pen.oval(x, y, 0.15, 0.15, PALE[0], outline=False)


def _photograph(canvas: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Scales the drawing down as a mediocre camera would."""
    image = canvas.reduce(CANVAS // SIZE)
    image = ImageEnhance.Color(image).enhance(rng.uniform(0.4, 1.4))
    if rng.random() < BLURRED:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.5)))
    contrast, brightness = rng.uniform((0.65, 0.8), (1.1, 1.15))
    across, down = rng.uniform(-0.22, 0.22, (2, 1)) * np.linspace(-1, 1, SIZE)
    light = (brightness + across + down[:, None])[..., None].astype(np.float32)
    pixels = ((np.asarray(image, np.float32) - 128) * np.float32(contrast) + 128) * light
    noise = rng.standard_normal(pixels.shape, np.float32)
    pixels += np.float32(NOISE * rng.random() ** 2) * noise
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def draw(number: int) -> Image.Image:
    """Image `number`, SIZE x SIZE in RGB: a cat where it is even, a dog where it is odd."""
    rng = np.random.default_rng([SEED, number])
    traits, look = Traits.sample(rng, number % 2), Look.sample(rng)
    line, wobble = rng.uniform((2.5, 0.01), (5, 0.04))
    pen = Pen(_background(rng), rng, _pick(rng, INKS), line, wobble)
    for _ in range(rng.integers(0, 4)):
        _toy(pen.at(rng.uniform(0, CANVAS, 2), rng.uniform(0.06, 0.13) * CANVAS))
    radius = CANVAS * np.exp(rng.uniform(*np.log(RADIUS)))
    centre = CANVAS * rng.normal(0.5, SHIFT, 2)
    if rng.random() < 0.5:
        _body(pen.at(centre, radius, rng.normal(0, 0.08)), look)
    head = pen.at(centre, radius, rng.normal(0, TILT))
    # Floppy ears hang in front of the head, all others stand behind it.
    first, second = (_head, _ears) if traits.ears == "floppy" else (_ears, _head)
    for part in (first, second, _eyes, _muzzle, _whiskers):
        part(head, traits, look)
    _finery(head)
    if rng.random() < OCCLUDED:
        away = rng.uniform(0, 2 * np.pi)
        spot = centre + 1.05 * radius * np.array([np.cos(away), np.sin(away)])
        _occluder(pen.at(spot, rng.uniform(0.4, 0.65) * radius, rng.normal(0, 0.4)))
    return _photograph(pen.canvas, rng)


def jpeg(number: int) -> bytes:
    """Image `number` as the data set stores it."""
    file = io.BytesIO()
    draw(number).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


class PetSketches(tfds.core.GeneratorBasedBuilder):
    """Cartoon cats and dogs in two splits, half of each."""

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {"2.0.0": "Twice as many drawings, most of them in a test split."}  # noqa: RUF012  TFDS asks so

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format="jpeg")
        label = tfds.features.ClassLabel(names=CLASSES)
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict({"image": image, "label": label}),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        tfds.disable_progress_bar()  # there is one here, which knows how many images there are
        return {
            "train": self._generate_examples(range(TRAIN)),
            "test": self._generate_examples(range(TRAIN, TRAIN + TEST)),
        }

    def _generate_examples(self, numbers: range) -> Iterator[tuple[int, dict]]:
        for number in progress(numbers, len(numbers), f"prepare: drawing {len(numbers):,} images"):
            yield number, {"image": jpeg(number), "label": number % 2}

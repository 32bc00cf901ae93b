"""The schema of `params.yaml`: every stage validates the whole file before it does any work."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from distillation.errors import InputError, reason
from distillation.files import composed


def _classifier(path: str) -> str:
    if path != NO_FILE and not path.endswith((".keras", ".tflite")):
        raise ValueError(f"the path of a .keras or .tflite file, or {NO_FILE} for none")
    return path


def _not_bool(value: object) -> object:
    """In Python True == 1.0, so a `Literal` takes it."""
    if isinstance(value, bool):
        raise ValueError("a number")
    return value


Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, le=1e6)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Pixels = Annotated[int, Field(ge=32, le=1024)]
Natural = Annotated[int, Field(ge=0, lt=2**31)]
Text = Annotated[str, Field(min_length=1)]
NO_FILE = "models/README.md"  # `teacher.file` where there is none: DVC wants a dependency that exists


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Data(_Section):
    """What the images are and how they are split."""

    name: Text = "pet_sketches"
    folder: Text = "data/images"
    class_names: Text = "data/class_names.txt"
    unlabeled: Text = "data/unlabeled"
    max_images: Annotated[int, Field(ge=10, lt=2**31)] | None = None
    image_size: Pixels = 96
    oblong: Literal["crop", "squeeze"] = "crop"
    splits: Literal["official", "anew"] = "official"
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    labeled_fraction: Annotated[float, Field(gt=0, le=1)] = 1
    seed: Natural = 0
    fold: Natural = 0

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> "Data":
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction must leave a share for training (sum below 1)")
        return self


class Budget(_Section):
    """What a run may cost, whatever the size of the data set: each number is of images, views counted one by one."""

    shown: Count = 70_000
    answered: Count = 3_500
    teacher: Count = 28_000


class Augment(_Section):
    """Strength of each augmentation (`distillation/data/views.py`)."""

    crop: Annotated[float, Field(gt=0, le=1)] = 0.6
    flip: Fraction = 0.5
    colour: Annotated[float, Field(ge=0, lt=1)] = 0.2
    mix: Annotated[float, Field(ge=0, le=0.5)] = 0


class Views(_Section):
    """Augmented views that teacher and student share."""

    augment: Augment = Augment()
    seed: Natural = 0


class Training(_Section):
    """What every training run needs to know."""

    batch_size: Count = 32
    learning_rate: Positive
    weight_decay: NonNegative = 0.01
    seed: Natural = 0


class Teacher(Training):
    """A network under a solved head (and fine-tuned), one that is trained as a whole, or one's own file."""

    file: Annotated[str, AfterValidator(_classifier)] = NO_FILE
    input_range: Literal["0..255", "0..1", "-1..1", "imagenet"] = "0..255"
    classes: Annotated[list[Annotated[str, AfterValidator(composed)]], Field(min_length=2)] | None = None
    network: Text = "MobileNetV2"
    weights: Text | None = None
    width: Annotated[Literal[0.35, 0.5, 0.75, 1.0, 1.3, 1.4], BeforeValidator(_not_bool)] = 0.35
    image_size: Pixels = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0
    answers: Literal["float32", "int8"] = "float32"
    fine_tune: Natural = 0
    learning_rate: Positive = 0.012

    @model_validator(mode="after")
    def _fine_tunes_what_was_trained_before(self) -> "Teacher":
        if self.fine_tune and self.weights is None:
            raise ValueError("fine_tune should be 0 where weights is null: the whole network is trained anyway")
        return self


class Student(Training):
    """A network of `distillation/networks/students.py`, and how it is trained, twice."""

    network: Literal["residual", "inverted_residual", "resnet8"] = "residual"
    image_size: Pixels = 32
    stem_stride: Annotated[Literal[1, 2, 4], BeforeValidator(_not_bool)] = 2
    channels: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=2, max_length=6)] = [16, 32]
    blocks: Annotated[int, Field(ge=1, le=16)] = 1
    expansion: Annotated[int, Field(ge=1, le=16)] = 4
    learning_rate: Positive = 0.016
    warmup: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    precision: Literal["float32", "mixed_bfloat16"] = "float32"


class Weights(_Section):
    """Weight of each further term of the objective (`distillation/training/objective.py`)."""

    features: NonNegative = 0


class Distill(_Section):
    """The objective of `distill`."""

    alpha: Fraction = 0.1
    temperature: Annotated[float, Field(ge=1e-6, le=1e6)] = 2
    weights: Weights = Weights()
    feature_channels: Annotated[int, Field(ge=4, le=1280, multiple_of=4)] = 32


class Params(_Section):
    """The whole of `params.yaml`. The defaults are those of the committed file: the drawn data set."""

    data: Data = Data()
    budget: Budget = Budget()
    views: Views = Views()
    teacher: Teacher = Teacher()
    student: Student = Student()
    distill: Distill = Distill()


# Keys of earlier versions, each with the key that replaces it and the value to set there.
_AS_IT_IS, _TIMES_IMAGES = "move its value there", "set that to this times the number of training images"
MOVED = {
    "views.min_area": ("views.augment.crop", _AS_IT_IS),
    "views.colour": ("views.augment.colour", _AS_IT_IS),
    "views.count": ("budget.answered", _TIMES_IMAGES),
    "teacher.views": ("budget.teacher", "set that to this plus one, times the number of training images"),
    "teacher.epochs": ("budget.teacher", "a head is solved on so many views, without epochs, so delete this"),
    "student.epochs": ("budget.shown", _TIMES_IMAGES),
    "student.warmup_epochs": ("student.warmup", "set that to its share of the epochs"),
    "distill.feature_weight": ("distill.weights.features", _AS_IT_IS),
}


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and validate `path`; `InputError` names each bad key, its value and what would be right."""
    return validated(read_yaml(path), path, complete=True)


def read_yaml(path: str | Path) -> object:
    """What `path` holds, as DVC reads it: YAML 1.2, where `no` is a word and `1e-05` a number; or `InputError`."""
    try:
        return YAML(typ="safe").load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run from the top of the repository") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({reason(error)})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text") from None
    except (YAMLError, RecursionError, ValueError) as error:  # ValueError: 2024-02-30 looks like a date
        problem = " ".join(str(error).split()).partition(" To suppress")[0]  # of a key that stands twice
        raise InputError(f"{path} is not valid YAML: {problem}") from None


def validated(content: object, path: str | Path, complete: bool = False) -> Params:
    """`content`, read from `path`, as parameters; `InputError` for bad keys and, with `complete`, for missing ones."""
    errors = []
    try:
        params = Params.model_validate(content)
    except ValidationError as error:
        errors = error.errors()
    keys = [" ".join(".".join(map(str, error["loc"])).split()) for error in errors]
    missing = _missing(content, Params().model_dump(), [MOVED[key][0] for key in keys if key in MOVED])
    if problems := [*(missing if complete else ()), *map(_problem, keys, errors)]:
        raise InputError(*(f"{path}{problem}" for problem in problems))
    return params


def _missing(content: object, defaults: dict, moved: list[str], section: str = "") -> Iterator[str]:
    """A message for each key, or whole section, that `content` lacks, except `moved` keys: DVC needs them all."""
    for name, default in defaults.items() if isinstance(content, dict) else ():
        key = f"{section}{name}"
        if name not in content and not any(f"{new}.".startswith(f"{key}.") for new in moved):
            is_section = isinstance(default, dict)
            value = "defaults are those of distillation/params.py" if is_section else f"default is {default!r}"
            yield f": {key} is missing; its {value}"
        elif isinstance(default, dict):
            yield from _missing(content.get(name, {}), default, moved, f"{key}.")


def leaves(content: dict, prefix: str = "") -> dict[str, object]:
    """The values of nested mappings by dotted key, as DVC names them."""
    found = {}
    for key, value in content.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _problem(key: str, problem: dict) -> str:
    """The message for one of pydantic's problems, to follow the file's name."""
    name = f": {key}" if key else ""
    if problem["type"] == "extra_forbidden":
        return f"{name} is now {': '.join(MOVED[key])}" if key in MOVED else f"{name} is not a parameter"
    message = "a mapping of parameters" if problem["type"] == "model_type" else problem["msg"]
    message = message.removeprefix("Value error, ").removeprefix("Input should be ")
    if isinstance(problem["input"], dict) and problem["type"] == "value_error":  # values that contradict each other
        return f"{name}: {message}"
    message = message.replace("String should have", "text of").replace("List should have", "a list of")
    value = repr(problem["input"])
    shown = value if len(value) <= 60 else f"{value[:57]}..."
    return f"{name} = {shown}, should be {message}"

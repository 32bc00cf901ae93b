"""The schema of `params.yaml`: every stage validates the whole file before it does any work."""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from distillation.errors import InputError, reason


def _number(value: object) -> object:
    """`dvc exp run -S x=0.00001` writes `1e-05`, which YAML 1.1 reads as a string."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _not_bool(value: object) -> object:
    """In Python True == 1.0, so a `Literal` takes it."""
    if isinstance(value, bool):
        raise ValueError("a number")
    return value


Real = Annotated[float, BeforeValidator(_number)]
Fraction = Annotated[Real, Field(ge=0, le=1)]
OpenFraction = Annotated[Real, Field(gt=0, lt=1)]
NonNegative = Annotated[Real, Field(ge=0, le=1e6)]
Positive = Annotated[Real, Field(gt=0, le=1e6)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Epochs = Annotated[int, Field(ge=1, le=1000)]  # each is a data set of its own
Pixels = Annotated[int, Field(ge=32, le=1024)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Data(_Section):
    """What the pictures are and how they are split."""

    name: Annotated[str, Field(min_length=1)]
    folder: Annotated[str, Field(min_length=1)]
    max_images: Annotated[int, Field(ge=10, lt=2**31)] | None
    image_size: Pixels
    validation_fraction: OpenFraction
    test_fraction: OpenFraction
    labeled_fraction: Annotated[Real, Field(gt=0, le=1)]
    seed: Seed

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> "Data":
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction must leave a share for training (sum below 1)")
        return self


class Views(_Section):
    """Augmented views that teacher and student share (`distillation/views.py`)."""

    count: Annotated[int, Field(ge=1, le=1000)]
    min_area: Annotated[Real, Field(gt=0, le=1)]
    colour: Annotated[Real, Field(ge=0, lt=1)]
    seed: Seed


class Training(_Section):
    """What every training run needs to know."""

    epochs: Epochs
    batch_size: Count
    learning_rate: Positive
    weight_decay: NonNegative
    seed: Seed


class Teacher(Training):
    """MobileNetV2, frozen under a trained head, or (weights: null) trained as a whole."""

    weights: Annotated[str, Field(min_length=1)] | None
    width: Annotated[Literal[0.35, 0.5, 0.75, 1.0, 1.3, 1.4], BeforeValidator(_not_bool)]
    image_size: Pixels
    views: Annotated[int, Field(ge=0)]
    dropout: Annotated[Real, Field(ge=0, lt=1)]


class Student(Training):
    """The compact CNN (`distillation/student.py`) and the budget of both of its trainings."""

    image_size: Pixels
    stem_stride: Annotated[Literal[1, 2, 4], BeforeValidator(_not_bool)]
    channels: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=2, max_length=6)]
    blocks: Annotated[int, Field(ge=1, le=16)]
    warmup_epochs: NonNegative

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> "Student":
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs = {self.warmup_epochs} must be at most epochs = {self.epochs}")
        return self


class Distill(_Section):
    """Weights of the terms of the loss (`distillation/losses.py`)."""

    alpha: Fraction
    temperature: Annotated[Real, Field(ge=1e-6, le=1e6)]
    feature_channels: Annotated[int, Field(ge=4, le=1280, multiple_of=4)]
    feature_weight: NonNegative


class Params(_Section):
    """The whole of `params.yaml`."""

    data: Data
    views: Views
    teacher: Teacher
    student: Student
    distill: Distill

    @model_validator(mode="after")
    def _teacher_learns_from_views_that_there_are(self) -> "Params":
        if self.teacher.views > self.views.count:
            raise ValueError(f"teacher.views = {self.teacher.views} must be at most views.count = {self.views.count}")
        return self


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and validate `path`; `InputError` names each bad key, its value and what would be right."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run from the top of the repository") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({reason(error)})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: 2024-02-30 looks like a date
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise InputError("; ".join(_problem(path, problem) for problem in error.errors())) from None


def _problem(path: str | Path, problem: dict) -> str:
    key = " ".join(".".join(str(part) for part in problem["loc"]).split())
    name = f"{path}: {key}" if key else str(path)
    if problem["type"] == "missing":
        return f"{name} is missing"
    if problem["type"] == "extra_forbidden":
        return f"{name} is not a parameter"
    if isinstance(problem["input"], dict) and problem["type"] == "value_error":  # values that contradict each other
        return f"{name}: {problem['msg'].removeprefix('Value error, ')}"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    message = message.replace("String should have", "text of").replace("List should have", "a list of")
    if problem["type"] == "model_type":
        message = "a mapping of parameters"
    value = repr(problem["input"])
    shown = value if len(value) <= 60 else f"{value[:57]}..."
    return f"{name} = {shown}, should be {message}"

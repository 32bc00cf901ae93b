"""params.yaml: what is valid passes, and anything else ends in one line that names the key."""

import copy
import datetime
import math
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distillation.errors import InputError
from distillation.params import Params, load_params

DEFAULT = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
LEAVES = [(section, leaf) for section, leaves in DEFAULT.items() for leaf in leaves]
MISSING = object()


def with_value(key: str, value: object) -> dict:
    """The committed parameters with another value at `key`, or without the key."""
    content = copy.deepcopy(DEFAULT)
    *sections, leaf = key.split(".")
    parent = content[sections[0]] if sections else content
    parent[leaf] = value
    if value is MISSING:
        del parent[leaf]
    return content


def load(directory: Path, content: object) -> Params:
    """Load parameters from text, bytes, or what YAML makes of anything else."""
    path = directory / "params.yaml"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return load_params(path)


def complaint(directory: Path, content: object) -> str:
    """The message that bad parameters end in, without the file's name."""
    with pytest.raises(InputError) as caught:
        load(directory, content)
    message = str(caught.value)
    assert "\n" not in message
    assert "params.yaml" in message
    return message.replace(str(directory), "")


@pytest.mark.parametrize("path", [Path("params.yaml"), *sorted(Path("presets").glob("*.yaml"))], ids=str)
def test_committed_parameters_are_valid(path: Path):
    loaded = load_params(path)
    assert loaded.model_dump() == yaml.safe_load(path.read_text(encoding="utf-8"))


def test_presets_set_what_the_default_sets():
    presets = sorted(Path("presets").glob("*.yaml"))
    assert presets
    for path in presets:
        preset = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert [(section, leaf) for section, leaves in preset.items() for leaf in leaves] == LEAVES


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("views", 3, "a mapping of parameters"),
        ("teacher", None, "a mapping of parameters"),
        ("data.name", "", "at least 1 character"),
        ("data.name", 3, "string"),
        ("data.max_images", 9, "10"),
        ("data.max_images", 2**31, "2147483648"),
        ("data.image_size", 31, "32"),
        ("data.image_size", 96.5, "integer"),
        ("data.image_size", True, "integer"),
        ("data.validation_fraction", 0, "greater than 0"),
        ("data.test_fraction", 1, "less than 1"),
        ("data.seed", -1, "0"),
        ("data.seed", 2**31, "2147483648"),
        ("data.seed", None, "integer"),
        ("views.count", 0, "1"),
        ("views.count", "8", "integer"),
        ("views.min_area", 0, "greater than 0"),
        ("views.min_area", 1.1, "1"),
        ("views.colour", 1, "less than 1"),
        ("teacher.width", 0.6, "0.5"),
        ("teacher.dropout", 1.0, "less than 1"),
        ("teacher.weights", "", "at least 1 character"),
        ("teacher.views", -1, "0"),
        ("teacher.width", True, "number"),
        ("student.stem_stride", 3, "1, 2 or 4"),
        ("student.stem_stride", True, "number"),
        ("student.channels", [16], "at least 2"),
        ("student.channels", 16, "list"),
        ("student.epochs", 0, "1"),
        ("student.epochs", 1001, "1000"),
        ("student.batch_size", True, "integer"),
        ("student.batch_size", 2**31, "2147483648"),
        ("student.learning_rate", 0, "greater than 0"),
        ("student.learning_rate", True, "number"),
        ("student.learning_rate", math.nan, "finite"),
        ("student.learning_rate", math.inf, "finite"),
        ("student.learning_rate", "nan", "finite"),
        ("student.learning_rate", "fast", "number"),
        ("student.weight_decay", -0.1, "0"),
        ("student.warmup_epochs", -1, "0"),
        ("student.warmup_epochs", 1e300, "1000000"),
        ("distill.alpha", -0.01, "0"),
        ("distill.alpha", 1.01, "1"),
        ("distill.alpha", [0.1], "number"),
        ("distill.alpha", None, "number"),
        ("distill.temperature", 0, "0.000001"),
        ("distill.temperature", 1e300, "1000000"),
        ("distill.temperature", -math.inf, "finite"),
        ("distill.feature_channels", 1284, "1280"),
        ("distill.feature_channels", 6, "multiple of 4"),
        ("distill.feature_weight", "1e999", "finite"),
    ],
)
def test_bad_value_is_named_with_its_key_and_what_would_be_right(tmp_path: Path, key: str, value: object, hint: str):
    message = complaint(tmp_path, with_value(key, value))
    assert f"{key} = " in message
    shown = str(float(value)) if isinstance(value, str) and hint == "finite" else repr(value)
    assert f" = {shown}, should be" in message
    assert hint in message.split("should be", 1)[1]


def test_bad_channel_is_named_by_its_place(tmp_path: Path):
    assert "student.channels.1 = 0, should be" in complaint(tmp_path, with_value("student.channels", [16, 0, 32]))


@pytest.mark.parametrize("key", ["distill.gamma", "distilll"])
def test_unknown_key_is_named(tmp_path: Path, key: str):
    assert f"{key} is not a parameter" in complaint(tmp_path, with_value(key, 1))


@pytest.mark.parametrize("key", ["distill.alpha", "views"])
def test_missing_key_is_named(tmp_path: Path, key: str):
    assert f"{key} is missing" in complaint(tmp_path, with_value(key, MISSING))


def test_every_bad_key_is_named_at_once(tmp_path: Path):
    content = with_value("distill.alpha", 2)
    content["student"]["epochs"] = 0
    message = complaint(tmp_path, content)
    assert "distill.alpha" in message
    assert "student.epochs" in message


def test_fractions_must_leave_something_to_train_on(tmp_path: Path):
    content = with_value("data.validation_fraction", 0.5)
    content["data"]["test_fraction"] = 0.5
    assert "validation_fraction + test_fraction" in complaint(tmp_path, content)
    content["data"]["test_fraction"] = 0.49
    assert load(tmp_path, content).data.test_fraction == 0.49


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"student.epochs": 2, "student.warmup_epochs": 2.5},
            "params.yaml: student: warmup_epochs = 2.5 must be at most epochs = 2",
        ),
        ({"views.count": 2, "teacher.views": 3}, "params.yaml: teacher.views = 3 must be at most views.count = 2"),
    ],
)
def test_what_contradicts_itself_is_named(tmp_path: Path, change: dict, named: str):
    content = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    for key, value in change.items():
        section, leaf = key.split(".")
        content[section][leaf] = value
    assert named in complaint(tmp_path, content)


def test_numbers_that_yaml_takes_for_strings_are_numbers(tmp_path: Path):
    text = re.sub("learning_rate: .*", "learning_rate: 1e-05", Path("params.yaml").read_text(encoding="utf-8"))
    assert yaml.safe_load(text)["student"]["learning_rate"] == "1e-05"
    loaded = load(tmp_path, text)
    assert loaded.student.learning_rate == loaded.teacher.learning_rate == 0.00001


def test_whole_numbers_serve_where_fractions_may_stand(tmp_path: Path):
    assert load(tmp_path, with_value("distill.alpha", 1)).distill.alpha == 1.0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "= None, should be a mapping of parameters"),
        ("# nothing\n", "= None, should be a mapping of parameters"),
        ("[1, 2]", "= [1, 2], should be a mapping of parameters"),
        ("data", "= 'data', should be a mapping of parameters"),
        ("{1: 2}", "should be"),
        ("data: [", "not valid YAML"),
        ("data:\n\t- 1", "not valid YAML"),
        ("a: *b", "not valid YAML"),
        ("!!python/object/apply:os.system [ls]", "not valid YAML"),
        ("? [1]\n: 2", "not valid YAML"),
        ("\0", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("data: 2024-02-30", "not valid YAML"),  # looks like a date, and is none
        (f"data: {'9' * 5000}", "not valid YAML"),  # more digits than Python converts
        (b"data: \xff\xfe", "not UTF-8"),
        ("data: caf\xe9".encode("latin-1"), "not UTF-8"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_file_that_holds_no_parameters_is_refused(tmp_path: Path, content: str | bytes, words: str):
    assert words in complaint(tmp_path, content)


def test_missing_file_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"nowhere\.yaml is missing"):
        load_params(tmp_path / "nowhere.yaml")


def test_directory_in_place_of_the_file_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=tmp_path.name):
        load_params(tmp_path)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=80)
    | st.dates()
    | st.binary(max_size=8)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3)
)


@settings(max_examples=150)
@given(st.sampled_from(LEAVES), values)
@example(("student", "learning_rate"), 10**400)
@example(("data", "name"), {"two\nlines": 1})
@example(("student", "seed"), datetime.date(2024, 1, 1))
def test_any_value_is_accepted_or_named_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, leaf: tuple[str, str], value: object
):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(with_value(".".join(leaf), value)), encoding="utf-8")
    try:
        assert isinstance(load_params(path), Params)
    except InputError as error:
        assert "\n" not in str(error)
        assert leaf[1] in str(error)


@settings(max_examples=40)
@given(st.text(max_size=60))
@example("two\nlines")
def test_any_unknown_key_is_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, key: str):
    path = tmp_path_factory.getbasetemp() / "unknown.yaml"
    path.write_text(yaml.safe_dump(DEFAULT | {key: 1}), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_params(path)
    assert len(str(caught.value).splitlines()) == 1

"""params.yaml: valid content passes; anything else ends in one line that names the key."""

import copy
import datetime
import math
from pathlib import Path

import pytest
import yaml
from clone import ROOT
from dvc.utils.hydra import apply_overrides
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distillation import preset
from distillation.errors import InputError
from distillation.params import MOVED, Params, leaves, load_params

DEFAULT = Params().model_dump()
LEAVES = leaves(DEFAULT)
SECTIONS = ["data", "budget", "views", "views.augment", "teacher", "student", "distill", "distill.weights"]
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
MISSING = object()


def put(content: dict, key: str, value: object) -> None:
    """Let `content` have `value` at `key`, or no such key."""
    *sections, leaf = key.split(".")
    for section in sections:
        content = content.setdefault(section, {})
    content[leaf] = value
    if value is MISSING:
        del content[leaf]


def with_values(values: dict[str, object]) -> dict:
    """The default parameters with other values, or without these keys."""
    content = copy.deepcopy(DEFAULT)
    for key, value in values.items():
        put(content, key, value)
    return content


def with_value(key: str, value: object) -> dict:
    return with_values({key: value})


def load(directory: Path, content: object) -> Params:
    """Load parameters from text, bytes, or what YAML makes of anything else."""
    path = directory / "params.yaml"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return load_params(path)


def complaints(directory: Path, content: object) -> list[str]:
    """The problems that bad parameters end in, without the file's name, which each of them begins with."""
    with pytest.raises(InputError) as caught:
        load(directory, content)
    path = directory / "params.yaml"
    assert caught.value.args
    for problem in caught.value.args:
        assert problem.startswith(f"{path}: ") or problem.startswith(f"{path} ")
        assert len(problem.splitlines()) == 1
    return [problem.removeprefix(f"{path}: ").removeprefix(f"{path} ") for problem in caught.value.args]


def complaint(directory: Path, content: object) -> str:
    """The one problem of parameters that have no other."""
    (problem,) = complaints(directory, content)
    return problem


def test_whole_file_of_defaults_is_valid_and_gives_them(tmp_path: Path):
    assert load(tmp_path, DEFAULT) == Params()
    assert load(tmp_path, DEFAULT).model_dump() == DEFAULT


def test_values_that_differ_from_the_defaults_are_taken(tmp_path: Path):
    values = {
        "data.name": "folder",
        "views.augment.flip": 0,
        "student.channels": [8, 8, 8],
        "distill.weights.features": 5,
    }
    loaded = leaves(load(tmp_path, with_values(values)).model_dump())
    assert loaded == LEAVES | values


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_are_valid_and_hold_what_differs_from_what_they_are_laid_over(tmp_path: Path, path: Path):
    """The preset named in `over`; without it, the defaults or any other preset."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "over" in content:
        below = leaves(preset.complete(content.pop("over")).model_dump())
        possible = [below]
    else:
        others = (preset.complete(other.stem) for other in PRESETS if other != path)
        below, possible = LEAVES, [LEAVES, *(leaves(other.model_dump()) for other in others)]
    assert content
    assert [key for key, value in leaves(content).items() if all(value == values[key] for values in possible)] == []
    completed = preset.complete(path.stem)
    assert leaves(completed.model_dump()) == below | leaves(content)
    assert load(tmp_path, completed.model_dump()) == completed


def test_preset_that_is_no_yaml_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preset, "PRESETS", tmp_path)
    (tmp_path / "mine.yaml").write_text("data:\n\tname: folder\n")
    with pytest.raises(InputError, match=r"mine\.yaml is not valid YAML: "):
        preset.complete("mine")


def test_preset_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    arguments = ["preset", "photographs", "--output", str(tmp_path / "file" / "params.yaml")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit, match=r"^error: .*file/params\.yaml cannot be written"):
        preset.main()


@pytest.mark.parametrize("override", ["data.fold=1", "student.channels=[1,2,3,4,5]", "teacher.classes=[a,b]"])
@pytest.mark.parametrize("name", [path.stem for path in PRESETS])
def test_preset_is_written_over_what_dvc_wrote_and_comments_stay(tmp_path: Path, override: str, name: str):
    path = tmp_path / "params.yaml"
    preset.write_params(Params(), path)
    lines = path.read_text().splitlines()
    path.write_text("".join(line + (" # why\n" if ": " in line and "_size" not in line else "\n") for line in lines))
    comments = path.read_text().count("# why")
    apply_overrides(str(path), [override])  # of `dvc exp run -S`: lists get a line for each item
    preset.write_params(preset.complete(name), path)
    assert load_params(path) == preset.complete(name)
    assert path.read_text().count("# why") >= comments - 1  # that of a list which was null may go


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
        ("budget.shown", 0, "1"),
        ("budget.shown", 2.5, "integer"),
        ("budget.answered", "8", "integer"),
        ("budget.answered", 2**31, "2147483648"),
        ("budget.teacher", 0, "1"),
        ("views.augment", 0.3, "a mapping of parameters"),
        ("views.augment.crop", 0, "greater than 0"),
        ("views.augment.crop", 1.1, "1"),
        ("views.augment.flip", -0.1, "0"),
        ("views.augment.flip", 1.1, "1"),
        ("views.augment.colour", 1, "less than 1"),
        ("teacher.file", "own.h5", "the path of a .keras or .tflite file"),
        ("teacher.input_range", "0..2", "'0..255', '0..1', '-1..1' or 'imagenet'"),
        ("teacher.classes", "cat", "list"),
        ("teacher.network", "", "at least 1 character"),
        ("teacher.network", None, "string"),
        ("teacher.width", 0.6, "0.5"),
        ("teacher.dropout", 1.0, "less than 1"),
        ("teacher.weights", "", "at least 1 character"),
        ("teacher.width", True, "number"),
        ("student.network", "plain", "'residual'"),
        ("student.stem_stride", 3, "1, 2 or 4"),
        ("student.stem_stride", True, "number"),
        ("student.channels", [16], "at least 2"),
        ("student.channels", 16, "list"),
        ("student.batch_size", True, "integer"),
        ("student.batch_size", 2**31, "2147483648"),
        ("student.learning_rate", 0, "greater than 0"),
        ("student.learning_rate", True, "number"),
        ("student.learning_rate", math.nan, "finite"),
        ("student.learning_rate", math.inf, "finite"),
        ("student.learning_rate", "fast", "number"),
        ("student.weight_decay", -0.1, "0"),
        ("student.warmup", -0.1, "0"),
        ("student.warmup", 0.6, "0.5"),
        ("student.precision", "float16", "'float32' or 'mixed_bfloat16'"),
        ("distill.alpha", -0.01, "0"),
        ("distill.alpha", 1.01, "1"),
        ("distill.alpha", [0.1], "number"),
        ("distill.alpha", None, "number"),
        ("distill.temperature", 0, "0.000001"),
        ("distill.temperature", 1e300, "1000000"),
        ("distill.temperature", -math.inf, "finite"),
        ("distill.feature_channels", 1284, "1280"),
        ("distill.feature_channels", 6, "multiple of 4"),
        ("distill.weights", [5], "a mapping of parameters"),
        ("distill.weights.features", "1e999", "finite"),
        ("distill.weights.features", -1, "0"),
    ],
)
def test_bad_value_is_named_with_its_key_and_what_would_be_right(tmp_path: Path, key: str, value: object, hint: str):
    message = complaint(tmp_path, with_value(key, value))
    shown = str(float(value)) if isinstance(value, str) and hint == "finite" else repr(value)
    assert message.startswith(f"{key} = {shown}, should be ")
    assert hint in message.split("should be", 1)[1]


def test_bad_channel_is_named_by_its_place(tmp_path: Path):
    message = complaint(tmp_path, with_value("student.channels", [16, 0, 32]))
    assert message.startswith("student.channels.1 = 0, should be")


@pytest.mark.parametrize("key", ["distill.gamma", "distilll", "views.augment.zoom", "distill.weights.hints"])
def test_unknown_key_is_named(tmp_path: Path, key: str):
    assert complaint(tmp_path, with_value(key, 1)) == f"{key} is not a parameter"


@pytest.mark.parametrize("key", LEAVES)
def test_missing_key_is_named_with_its_default(tmp_path: Path, key: str):
    assert complaint(tmp_path, with_value(key, MISSING)) == f"{key} is missing; its default is {LEAVES[key]!r}"


@pytest.mark.parametrize("section", SECTIONS)
def test_missing_section_is_one_problem(tmp_path: Path, section: str):
    message = complaint(tmp_path, with_value(section, MISSING))
    assert message == f"{section} is missing; its defaults are those of distillation/params.py"


def test_empty_section_lacks_each_of_its_keys(tmp_path: Path):
    problems = complaints(tmp_path, with_values({"views.augment": {}, "distill.weights": {}}))
    assert [problem.partition(" is missing")[0] for problem in problems] == [
        *(f"views.augment.{name}" for name in DEFAULT["views"]["augment"]),
        *(f"distill.weights.{name}" for name in DEFAULT["distill"]["weights"]),
    ]


def test_file_without_sections_lacks_each_of_them(tmp_path: Path):
    problems = complaints(tmp_path, "{}")
    assert [problem.partition(" is missing")[0] for problem in problems] == list(DEFAULT)


@pytest.mark.parametrize("old", MOVED)
@pytest.mark.parametrize("beside", ["key", "section", "nothing"])
def test_moved_key_gets_one_line_and_nothing_else_is_said_about_it(tmp_path: Path, old: str, beside: str):
    """The old key replaces the new one, replaces the new one's whole section, or is there beside it."""
    new, how = MOVED[old]
    section = new.rpartition(".")[0]
    gone = {"key": {new: MISSING}, "section": {section: MISSING}, "nothing": {}}[beside]
    moved, *others = complaints(tmp_path, with_values(gone | {old: 0.3}))[::-1]
    assert moved == f"{old} is now {new}: {how}"
    siblings = [key for key in LEAVES if key.startswith(f"{section}.") and key != new] if beside == "section" else []
    assert others[::-1] == [f"{key} is missing; its default is {LEAVES[key]!r}" for key in siblings]


def test_parameters_of_the_version_before_get_a_line_for_each_moved_and_each_new_key(tmp_path: Path):
    values = {"views.augment": MISSING, "views.min_area": 0.3, "views.colour": 0.2, "distill.weights": MISSING}
    values |= {"distill.feature_weight": 50, "teacher.network": MISSING, "student.network": MISSING}
    assert sorted(complaints(tmp_path, with_values(values))) == [
        "distill.feature_weight is now distill.weights.features: move its value there",
        "student.network is missing; its default is 'residual'",
        "teacher.network is missing; its default is 'MobileNetV2'",
        "views.augment.flip is missing; its default is 0.5",
        "views.augment.mix is missing; its default is 0",
        "views.colour is now views.augment.colour: move its value there",
        "views.min_area is now views.augment.crop: move its value there",
    ]


def test_moved_keys_lead_to_parameters_that_there_are():
    assert {new for new, _ in MOVED.values()} <= set(LEAVES)
    assert not set(MOVED) & set(LEAVES)


def test_every_bad_key_is_named_at_once(tmp_path: Path):
    values = {"distill.alpha": 2, "student.blocks": 0, "data.seed": MISSING, "teacher.depth": 3}
    problems = complaints(tmp_path, with_values(values))
    assert sorted(problem.split()[0] for problem in problems) == sorted(values)


def test_fractions_must_leave_something_to_train_on(tmp_path: Path):
    content = with_values({"data.validation_fraction": 0.5, "data.test_fraction": 0.5})
    assert complaint(tmp_path, content).startswith("data: validation_fraction + test_fraction must leave")
    assert load(tmp_path, with_values({"data.validation_fraction": 0.5, "data.test_fraction": 0.49}))


def test_values_are_read_as_dvc_writes_them(tmp_path: Path):
    """`dvc exp run -S` writes YAML 1.2 without quotes; in YAML 1.1, `1e-05` is a string and `no` is False."""
    text = yaml.safe_dump(with_values({"student.learning_rate": "RATE", "teacher.classes": "CLASSES"}))
    text = text.replace("RATE", "1e-05").replace("CLASSES", "[no, yes]")
    assert yaml.safe_load(text)["student"]["learning_rate"] == "1e-05"
    loaded = load(tmp_path, text)
    assert loaded.student.learning_rate == 0.00001
    assert loaded.teacher.classes == ["no", "yes"]


def test_whole_numbers_serve_where_fractions_may_stand(tmp_path: Path):
    assert load(tmp_path, with_value("distill.alpha", 1)).distill.alpha == 1.0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "= None, should be a mapping of parameters"),
        ("# nothing\n", "= None, should be a mapping of parameters"),
        ("[1, 2]", "= [1, 2], should be a mapping of parameters"),
        ("data", "= 'data', should be a mapping of parameters"),
        ("{1: 2}", "should be"),  # and all sections are missing
        ("{data: null}", "data = None, should be a mapping of parameters"),
        ("data: [", "not valid YAML"),
        ("data:\n\t- 1", "not valid YAML"),
        ("a: *b", "not valid YAML"),
        ("!!python/object/apply:os.system [ls]", "not valid YAML"),
        ("? [1]\n: 2", "Keys should be strings"),
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
    assert words in "; ".join(complaints(tmp_path, content))


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
@given(st.sampled_from([*LEAVES, *SECTIONS]), values)
@example("student.learning_rate", 10**400)
@example("data.name", {"two\nlines": 1})
@example("views.augment", {"two\nlines": 1})
@example("student.seed", datetime.date(2024, 1, 1))
def test_any_value_is_accepted_or_named_in_one_line(tmp_path_factory: pytest.TempPathFactory, key: str, value: object):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(with_value(key, value)), encoding="utf-8")
    try:
        assert isinstance(load_params(path), Params)
    except InputError as error:
        assert all(len(problem.splitlines()) == 1 for problem in error.args)
        assert all(key.rpartition(".")[2] in problem for problem in error.args)


@settings(max_examples=40)
@given(st.text(max_size=60))
@example("two\nlines")
def test_any_unknown_key_is_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, key: str):
    path = tmp_path_factory.getbasetemp() / "unknown.yaml"
    path.write_text(yaml.safe_dump(DEFAULT | {key: 1}), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_params(path)
    (problem,) = caught.value.args
    assert len(problem.splitlines()) == 1

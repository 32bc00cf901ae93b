"""Output of a stage: it ends with its line of result, or with a line for each problem."""

import errno
import os
import sys
from pathlib import Path

import pytest
import tensorflow as tf
import yaml

from distillation import console
from distillation.console import progress, run
from distillation.errors import InputError
from distillation.params import Params
from distillation.quiet import without_lines


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_params({})


def write_params(changes: dict) -> None:
    """Let params.yaml hold the defaults with other sections."""
    Path("params.yaml").write_text(yaml.safe_dump(Params().model_dump() | changes))


def raising(error: BaseException):
    def stage(params: object) -> str:
        raise error

    return stage


def test_result_is_printed(capsys: pytest.CaptureFixture):
    write_params({"data": Params().data.model_dump() | {"name": "folder"}})
    run(lambda params: f"{params.data.name}: done")
    assert capsys.readouterr().out == "folder: done\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("dog/a\nb.jpg: not an image"), "dog/a b.jpg: not an image"),
        (PermissionError(errno.EACCES, "Permission denied", "data"), "[Errno 13] Permission denied: 'data'"),
        (OSError(errno.ENOSPC, "No space left on device"), "[Errno 28] No space left on device"),
        (tf.errors.PermissionDeniedError(None, None, "data/a; Permission denied"), "data/a; Permission denied"),
        (tf.errors.ResourceExhaustedError(None, None, "OOM: float[9]\nHint: ..."), "OOM: float[9]"),
        (MemoryError("Unable to allocate 9 GiB"), "Unable to allocate 9 GiB"),
        (MemoryError(), "MemoryError"),
        (KeyboardInterrupt(), "interrupted; run it again to go on"),
    ],
    ids=repr,
)
def test_what_the_user_can_mend_ends_in_one_line(error: BaseException, line: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as ended:
        run(raising(error))
    assert ended.value.code == 1
    assert capsys.readouterr() == ("", f"error: {line}\n")


def test_each_problem_gets_a_line(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as ended:
        run(raising(InputError("dog/a\nb.jpg: not an image", "params.yaml: distill.alpha = 2")))
    assert ended.value.code == 1
    assert capsys.readouterr() == ("", "error: dog/a b.jpg: not an image\nerror: params.yaml: distill.alpha = 2\n")


def test_problems_read_as_one_text():
    assert str(InputError("a: not an image", "b: not an image")) == "a: not an image; b: not an image"
    assert str(InputError("a: not an image")) == "a: not an image"


def test_each_bad_parameter_gets_a_line(capsys: pytest.CaptureFixture):
    write_params({"data": Params().data.model_dump() | {"image_size": 1, "seed": -1}})
    with pytest.raises(SystemExit):
        run(raising(AssertionError("began")))
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" = ")[0] for line in lines] == [
        "error: params.yaml: data.image_size",
        "error: params.yaml: data.seed",
    ]


def test_bad_parameters_end_in_one_line_before_the_stage_begins(capsys: pytest.CaptureFixture):
    Path("params.yaml").write_text("")
    with pytest.raises(SystemExit):
        run(raising(AssertionError("began")))
    out, error = capsys.readouterr()
    assert out == ""
    assert len(error.splitlines()) == 1
    assert error.startswith("error: params.yaml")


def test_defects_keep_their_traceback():
    for defect in (ZeroDivisionError(), ValueError("defect"), tf.errors.InvalidArgumentError(None, None, "defect")):
        with pytest.raises(type(defect)):
            run(raising(defect))


@pytest.mark.parametrize(
    ("ci", "worth", "lines"), [("", -1, ["counting: 0 s"]), ("", 3, []), ("true", -1, [])], ids=["long", "short", "CI"]
)
def test_long_work_leaves_a_line_in_a_log(
    ci: str, worth: int, lines: list[str], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(console, "WORTH_A_LINE", worth)
    assert [*progress(iter("abc"), 3, "counting")] == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.parametrize(("ci", "bar"), [("", True), ("true", False)])
def test_a_terminal_shows_a_bar_unless_under_ci(
    ci: str, bar: bool, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert [*progress(iter("abc"), 3, "counting")] == ["a", "b", "c"]
    assert ("counting" in capsys.readouterr().err) == bar


def test_lines_that_say_nothing_are_held_back_and_the_others_follow(capfd: pytest.CaptureFixture):
    with pytest.raises(OSError), without_lines("greeting", "hello"):
        os.write(2, b"a greeting\na warning\nhello\n")
        raise OSError
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "a warning\nafter\n"

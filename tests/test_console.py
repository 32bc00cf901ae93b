"""What a stage shows, and how it ends: with its line of result, or with one line that says what is wrong."""

import errno
import os
import shutil
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from distillation import console
from distillation.console import progress, run
from distillation.errors import InputError
from distillation.quiet import without_lines


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy("params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)


def raising(error: BaseException):
    def stage(params: object) -> str:
        raise error

    return stage


def test_result_is_printed(capsys: pytest.CaptureFixture):
    run(lambda params: f"{params.data.name}: done")
    assert capsys.readouterr().out == "pet_sketches: done\n"


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
    monkeypatch.setattr(console, "LOGGED_FROM", worth)
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

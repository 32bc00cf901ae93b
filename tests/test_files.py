"""Files are whole under their final name or not there, and equal values give equal bytes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from distillation.errors import InputError
from distillation.files import read_json, replacing, write_json


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_file_appears_only_when_the_block_succeeds(tmp_path: Path):
    target = tmp_path / "new" / "weights.weights.h5"
    with replacing(target) as temporary:
        assert temporary.name.endswith(".weights.h5")
        assert temporary.parent == target.parent
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert names(target.parent) == [target.name]


def test_directory_appears_only_when_the_block_succeeds(tmp_path: Path):
    target = tmp_path / "records"
    for content in ("first", "second"):
        with replacing(target) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
        assert names(target) == [content]
    assert names(tmp_path) == ["records"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]):
    target = tmp_path / "metrics.json"
    target.write_text("old")
    with pytest.raises(error), replacing(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["metrics.json"]


def test_failure_leaves_the_old_directory_and_nothing_else(tmp_path: Path):
    target = tmp_path / "records"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(target) as temporary:
        temporary.mkdir()
        (temporary / "half").write_text("half")
        raise ZeroDivisionError
    assert names(target) == ["old"]
    assert names(tmp_path) == ["records"]


def test_failure_without_an_old_file_leaves_nothing(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == []


@pytest.mark.parametrize("leftover_is_directory", [False, True])
def test_leftover_of_a_killed_run_is_cleared(tmp_path: Path, leftover_is_directory: bool):
    target = tmp_path / "a.txt"
    with replacing(target) as temporary:
        leftover = temporary
        temporary.write_text("1")
    if leftover_is_directory:
        leftover.mkdir()
        (leftover / "half").write_text("half")
    else:
        leftover.write_text("half")
    with replacing(target) as temporary:
        assert not temporary.exists()
        temporary.write_text("2")
    assert target.read_text() == "2"
    assert names(tmp_path) == ["a.txt"]


def test_json_is_sorted_and_rounded(tmp_path: Path):
    write_json(tmp_path / "a.json", {"b": 1 / 3, "a": {"d": 1.2345678e-20, "c": [0.1234567, 1]}})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"a": {"c": [0.123457, 1], "d": 1.23457e-20}, "b": 0.333333}
    assert text.index('"a"') < text.index('"c"') < text.index('"d"') < text.index('"b"')
    assert text.endswith("}\n")


def test_rows_stand_one_a_line(tmp_path: Path):
    rows = [{"epoch": epoch, "accuracy": epoch / 3} for epoch in (1, 2, 3)]
    write_json(tmp_path / "a.json", rows)
    lines = (tmp_path / "a.json").read_text().splitlines()
    assert lines[1] == '{"accuracy": 0.333333, "epoch": 1},'
    assert len(lines) == 5
    assert [row["epoch"] for row in read_json(tmp_path / "a.json")] == [1, 2, 3]


@pytest.mark.parametrize("value", [[], {}, 3, "text", None, True, [{"a": None}]])
def test_json_comes_back_as_it_was(tmp_path: Path, value: object):
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), np.float64("inf")])
def test_what_json_cannot_hold_is_refused_and_leaves_nothing(tmp_path: Path, value: float):
    for content in ({"a": value}, [{"a": value}], [value]):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(tmp_path / "a.json", content)
    assert names(tmp_path) == []


def test_numbers_of_numpy_and_of_python_give_the_same_bytes(tmp_path: Path):
    of_python = {"a": 0.1, "b": 3, "c": True, "d": [0.25, 7], "e": {"f": 1.0}}
    of_numpy = {
        "e": {"f": np.float16(1)},
        "d": (np.float32(0.25), np.uint8(7)),
        "c": np.bool_(True),
        "b": np.int64(3),
        "a": np.float32(0.1),
    }
    for name, value in (("python", of_python), ("numpy", of_numpy)):
        write_json(tmp_path / name, value)
    assert (tmp_path / "numpy").read_bytes() == (tmp_path / "python").read_bytes()


def test_missing_and_broken_json_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"a\.json is missing.*dvc repro"):
        read_json(tmp_path / "a.json")
    for content in (b"", b"{", b"\xff"):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.json is not valid JSON"):
            read_json(tmp_path / "a.json")

"""dvc.yaml against the code: no stage can go stale, and none reruns for nothing."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from clone import Clone

from distillation.params import Params

# These cannot change an out: the schema of the parameters (their values are DVC params), console output, errors.
WITHOUT_EFFECT = {Path(f"distillation/{name}.py") for name in ("params", "console", "quiet", "errors")}
STAGES = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]


def imported_files(path: Path) -> set[Path]:
    """Files of the library that the file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = {Path(f"{name.replace('.', '/')}.py") for name in names if name.startswith("distillation.")}
    return {file for file in files if file.is_file()}


def library_files(script: Path) -> set[Path]:
    """Files of the library that the script reaches, directly or not."""
    reached, waiting = set(), [script]
    while waiting:
        found = imported_files(waiting.pop()) - reached
        reached |= found
        waiting += found
    return reached - WITHOUT_EFFECT


def declared_code(stage: str) -> list[Path]:
    """The files and folders of code that the stage depends on."""
    return [Path(dep) for dep in STAGES[stage]["deps"] if dep.startswith(("stages/", "distillation/"))]


@pytest.mark.parametrize("stage", STAGES)
def test_deps_cover_the_import_graph(stage: str) -> None:
    script = Path(f"stages/{stage}.py")
    needed = {Path("stages/__init__.py"), script, *library_files(script)}
    for file in needed:
        assert any(file.is_relative_to(dep) for dep in declared_code(stage)), f"{stage} imports {file}"


@pytest.mark.parametrize("stage", STAGES)
def test_deps_name_no_code_that_is_not_imported(stage: str) -> None:
    script = Path(f"stages/{stage}.py")
    needed = {Path("stages/__init__.py"), script, *library_files(script)}
    for dep in declared_code(stage):
        assert dep.exists(), dep
        read = dep.as_posix() in script.read_text()  # a template
        assert read or any(file.is_relative_to(dep) for file in needed), f"{stage} does not import {dep}"


@pytest.mark.parametrize("edited", ["report/charts.py", "report/page.py", "console.py", "predict.py", "preset.py"])
def test_editing_what_only_shows_retrains_nothing(edited: str) -> None:
    file = Path("distillation") / edited
    stale = {stage for stage in STAGES if any(file.is_relative_to(dep) for dep in declared_code(stage))}
    assert file.exists()
    assert stale <= {"report"}


@pytest.mark.parametrize(
    "edited", ["data/views.py", "networks/students.py", "networks/teachers.py", "training/objective.py"]
)
def test_a_file_that_people_extend_reruns_only_what_imports_it(edited: str) -> None:
    file = Path("distillation") / edited
    stale = {stage for stage in STAGES if any(file.is_relative_to(dep) for dep in declared_code(stage))}
    assert stale == {stage for stage in STAGES if file in library_files(Path(f"stages/{stage}.py"))}


def test_every_script_is_a_stage() -> None:
    assert {path.stem for path in Path("stages").glob("[!_]*.py")} == set(STAGES)


def test_every_leaf_parameter_is_read_by_a_stage_that_computes() -> None:
    leaves = {f"{name}.{leaf}" for name, section in Params() for leaf in type(section).model_fields}
    declared = {key for name, stage in STAGES.items() if name != "report" for key in stage.get("params", [])}
    assert declared == leaves


@pytest.mark.slow
def test_stages_declare_the_parameters_that_they_read(clone: Clone) -> None:
    """Those and no others, including those read by library functions; `report` shows all."""
    assert clone.reads.keys() == STAGES.keys()
    for stage, read in clone.reads.items():
        unread = {"student.expansion"} if stage in ("train_scratch", "distill") else set()  # of inverted residuals
        if stage == "train_teacher":  # of one's own file
            unread |= {"teacher.input_range", "teacher.classes"}
        if stage != "report":
            assert set(read) == set(STAGES[stage].get("params", [])) - unread, stage


def test_networks_are_what_they_are_whatever_keras_is_told(tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text('{"floatx": "float16", "image_data_format": "channels_first"}')
    build = """
import stages, keras
from distillation.networks import network, students
from distillation.params import Student
outputs = students.build_student(Student(), 3).output
print(keras.backend.backend(), outputs["last_map"].shape, outputs["logits"].dtype)
"""
    done = subprocess.run(
        [sys.executable, "-c", build],
        env=os.environ | {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "numpy"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "tensorflow (None, 8, 8, 32) float32\n"


def test_environment_stays_as_it_was_chosen(tmp_path: Path):
    """`make run REQUIREMENTS=...` once; later targets use that environment and do not replace it."""
    for file in ("Makefile", "pyproject.toml", "requirements.txt", "requirements-cuda.txt"):
        shutil.copy(file, tmp_path)

    def commands(*words: str) -> str:
        settings = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        return subprocess.run(
            ["make", "--dry-run", *words], cwd=tmp_path, env=settings, check=True, capture_output=True, text=True
        ).stdout

    assert "-r requirements.txt" in commands("run")
    assert "-r requirements-cuda.txt" in commands("run", "REQUIREMENTS=requirements-cuda.txt")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/installed-requirements-cuda").touch()
    assert commands("run").startswith("dvc repro\n")
    assert "-r requirements.txt" in commands("run", "REQUIREMENTS=requirements.txt")

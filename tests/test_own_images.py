"""README's way to own images, in a clone; afterwards the tests pass there too."""

import re

import pytest
import yaml
from clone import ROOT, Clone, copy_of_the_product, draw_folder
from helpers import needs_imagenet_1


@pytest.mark.slow
@needs_imagenet_1
def test_own_images_and_then_the_tests_of_what_may_be_changed(tmp_path) -> None:
    clone = Clone(tmp_path / "repository")
    copy_of_the_product(clone)
    preset = clone.path / "presets/photographs.yaml"
    content = yaml.safe_load(preset.read_text())
    content["budget"] = {"shown": 640, "answered": 100, "teacher": 100}  # the same way with less patience
    content["teacher"] |= {"fine_tune": 32, "batch_size": 16} if "fine_tune" in content["teacher"] else {}
    preset.write_text(yaml.safe_dump(content))
    clone.commit("as it comes")
    draw_folder(clone.path / "photos")
    (commands,) = re.findall(r"^## Your own images\n.*?```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S | re.M)
    done = clone.run("bash", "-euc", commands)
    assert "report: plots/report.html" in done.stdout
    assert clone.run("git", "status", "--porcelain").stdout == ""
    # No other test opens what a user changes: see `conftest.py`.
    clone.run("pytest", "-q", "-m", "not slow", "tests/test_params.py", "tests/test_dependencies.py")


@pytest.mark.parametrize("path", ["params.yaml", "./metrics/evaluate.json", f"{ROOT}/plots/history/teacher.json"])
def test_a_test_that_opens_what_is_the_users_fails(path: str) -> None:
    with pytest.raises(pytest.fail.Exception, match=path.removeprefix("./")), open(path):  # noqa: PTH123
        pass

"""`dvc repro` killed anywhere and run again ends as the undisturbed run did."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from clone import STAGES, Clone

pytestmark = pytest.mark.slow


def running(done: subprocess.CompletedProcess) -> list[str]:
    """The stages that DVC said it was running, in their order."""
    return re.findall("Running stage '(.+)'", done.stdout)


def killed(clone: Clone, stage: str, process: str, changes: int, seconds: float) -> None:
    """Run `dvc repro` until SIGKILL ends its whole process group in `stage`; see `kill/sitecustomize.py`."""
    done = clone.run(
        "env",
        f"PYTHONPATH={Path(__file__).with_name('kill')}",
        "PYTHONDONTWRITEBYTECODE=1",
        f"KILL={stage} {process} {changes} {seconds}",
        "PYTHONHASHSEED=7",  # the order of sets must not matter
        "dvc",
        "repro",
        check=False,
        start_new_session=True,
    )
    assert done.returncode == -9, done.stderr
    assert stage in running(done)


def test_killed_twice_in_every_stage_it_ends_with_the_same_lock(clone: Clone, tmp_path: Path) -> None:
    fresh = Clone(tmp_path / "fresh")
    clone.run("git", "clone", "-qb", "main", ".", str(fresh.path))
    shutil.copytree(clone.path / "photos", fresh.path / "photos")
    (fresh.path / "dvc.lock").unlink()
    rng = np.random.default_rng(0)
    assert set(running(clone.first)) == set(STAGES)
    for stage in running(clone.first):
        killed(fresh, stage, "script", rng.integers(1, 16), rng.uniform(0, 1) ** 4)  # half of them within 0.06 s
        killed(fresh, stage, "dvc", rng.integers(1, 80), 0)
    fresh.run("dvc", "repro")
    # dvc.lock, metrics and plots are the committed ones, byte by byte, and nothing of ours lies about.
    assert fresh.run("git", "status", "--porcelain").stdout == ""
    assert not list(fresh.path.rglob(".partial-*"))
    assert not list((fresh.path / ".checkpoints").iterdir())

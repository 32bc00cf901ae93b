"""What is committed is in step: `dvc.lock` with code and parameters, `results/` with their own locks."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

RECORDS = sorted(path.parent for path in Path("results").glob("*/dvc.lock"))


def test_lock_is_in_step_with_code_and_params() -> None:
    dvc = Path(sys.executable).with_name("dvc")
    dry = subprocess.run([dvc, "repro", "--dry", "--allow-missing"], capture_output=True, text=True)
    stale = [line for line in dry.stdout.splitlines() if line.startswith("Running stage")]
    assert dry.returncode == 0, dry.stderr
    assert not stale, f"run `dvc repro` and commit dvc.lock, metrics and plots: {stale}"


@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_record_is_what_its_lock_says(record: Path) -> None:
    stages = yaml.safe_load((record / "dvc.lock").read_text())["stages"]
    hashes = {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}
    published = [str(path.relative_to(record)) for path in record.rglob("*") if str(path.relative_to(record)) in hashes]
    assert {"metrics/evaluate.json", "metrics/export.json", "plots/table.md"} <= set(published)
    for path in published:
        if (record / path).is_file():
            assert hashlib.md5((record / path).read_bytes()).hexdigest() == hashes[path], path


@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_record_was_made_with_the_committed_preset(record: Path) -> None:
    params = yaml.safe_load((record / "params.yaml").read_text())
    assert params == yaml.safe_load(Path(f"presets/{record.name}.yaml").read_text())
    stages = yaml.safe_load((record / "dvc.lock").read_text())["stages"]
    for stage in stages.values():
        for key, value in stage.get("params", {}).get("params.yaml", {}).items():
            section, *leaf = key.split(".")
            assert value == (params[section][leaf[0]] if leaf else params[section]), key

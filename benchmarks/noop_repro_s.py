"""How many seconds does `dvc repro` take when there is nothing to do?

In a temporary clone in which `dvc commit` has declared placeholders to be the outs: DVC compares
code, parameters and outs with dvc.lock as it does after a run, and knows unchanged files by their
times, whatever their size. Start-up of DVC included.

Bound by DVC's own Python: it hashes nothing here.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from benchmarks._timing import ROOT, answer, interleaved, record

DVC = str(Path(sys.executable).with_name("dvc"))
RECORD_FILES = 14  # in data/records of the preset


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:

        def run(*command: str) -> str:
            return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True).stdout

        run("git", "clone", "--quiet", str(ROOT), ".")
        for stage in yaml.safe_load(Path(directory, "dvc.yaml").read_text())["stages"].values():
            for out in stage["outs"]:
                _placeholder(Path(directory, *(out if isinstance(out, dict) else [out])))
        run(DVC, "commit", "--force", "--quiet")
        said = run(DVC, "repro")
        if "Data and pipelines are up to date." not in said:
            raise SystemExit(f"error: there was something to do:\n{said}")
        seconds = interleaved(lambda: run(DVC, "repro"), rounds=5)
    record(noop_repro_s=answer(__doc__, seconds[:, 0], "<= 3"))


def _placeholder(path: Path) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        path.write_text("placeholder")
    else:
        path.mkdir()
        for number in range(RECORD_FILES):
            (path / str(number)).write_text(f"placeholder {number}")


if __name__ == "__main__":
    main()

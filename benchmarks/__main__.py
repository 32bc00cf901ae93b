"""Ask every question, each in a process of its own, and print one table."""

import subprocess
import sys
from pathlib import Path

from benchmarks._timing import RESULTS, table
from distillation.files import read_json

SCRIPTS = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def main() -> None:
    failed = []
    for number, script in enumerate(SCRIPTS, 1):
        print(f"[{number}/{len(SCRIPTS)}] {script}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{script}"]).returncode:
            failed.append(script)
    print(f"\n{table(read_json(RESULTS))}")
    if failed:
        sys.exit(f"error: {', '.join(failed)} failed; the table shows what an earlier run found")


if __name__ == "__main__":
    main()

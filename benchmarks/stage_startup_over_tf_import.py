"""How many times as long as a bare import of TensorFlow and Keras does the start of a stage take?

A process of each stage in turn, against one that does `import tensorflow, keras`; the spread is also
over the stages. The start ends when the stage has its parameters.

Bound by the import of TensorFlow.
"""

import subprocess
import sys

import yaml

from benchmarks._timing import ROOT, answer, interleaved, record


def main() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    names = iter(stages)

    def stage() -> None:
        _python(f"import stages.{next(names)}; from distillation.params import load_params; load_params()")

    _python("import tensorflow, keras")  # reads the files for the first time
    seconds = interleaved(stage, lambda: _python("import tensorflow, keras"), rounds=len(stages))
    record(stage_startup_over_tf_import=answer(__doc__, seconds[:, 0] / seconds[:, 1], "<= 1.3"))


def _python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)


if __name__ == "__main__":
    main()

"""How long does a stage take until it has its parameters, in bare imports of TensorFlow and Keras?

A process of each stage in turn, against one that does `import tensorflow, keras`; the spread is also
over the stages.

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

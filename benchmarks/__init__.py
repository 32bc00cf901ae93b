"""One script for each question: `python -m benchmarks.step_over_compute`, or all of them with `make bench`.

They need no data. The settings are those of `presets/cats_vs_dogs.yaml`; images and the teacher's weights are random,
since no speed depends on their values. Answers are written to `results.json`.
"""

import stages  # noqa: F401  imports TensorFlow and hides its greeting

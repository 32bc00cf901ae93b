"""One script a question: `python -m benchmarks.step_over_compute`, or all of them with `make bench`.

They need no data: the settings are those of `presets/cats_vs_dogs.yaml`, the images and the
teacher's weights random, on whose values no speed depends. Answers go to `results.json`.
"""

import stages  # noqa: F401  imports TensorFlow, and keeps its greeting from the output

"""The ablation of consistent views: `python -m studies.naive_cache naive.json`, after `dvc repro`.

The student sees views as ever, but the teacher answers the plain image in place of each. Writes the final
metrics of the student distilled so, from logits and features and from logits alone; the workspace stays as it is.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distillation.data.records import RECORDS, Records
from distillation.data.views import number_of_views
from distillation.files import read_json, write_json
from distillation.inference.answers import ANSWERS, write_parts
from distillation.inference.components import with_components
from distillation.inference.forward import BATCH, Arrays, forward_pass, plain_images, predict, view_images
from distillation.networks.network import load_network
from distillation.params import Params, load_params
from stages import distill
from stages.cache_teacher_logits import PCA_BATCHES

NEEDED = ("params.yaml", "dvc.yaml", "stages", "distillation", str(RECORDS), "models/teacher")


def main(metrics: Path) -> None:
    """Write final metrics by the weight of the features to `metrics`."""
    root = Path.cwd()
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        for name in NEEDED:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).symlink_to(root / name)
        params = load_params()
        answer_plain_images(params)
        rows = []
        for features in sorted({0, params.distill.weights.features}):
            weights = params.distill.weights.model_copy(update={"features": features})
            objective = params.distill.model_copy(update={"weights": weights})
            print(distill.main(params.model_copy(update={"distill": objective})))
            rows.append({"features": features} | read_json("metrics/student_distilled.json"))
    write_json(metrics, rows)


def answer_plain_images(params: Params) -> None:
    """Write what `cache_teacher_logits` does, but the answer to every view is that to the plain image."""
    train, teacher = Records("train", at_most=params.budget.answered), load_network("models/teacher")
    size, channels = teacher.input_shape[1], params.distill.feature_channels
    sample = view_images(train, size, params.views, 1).take(PCA_BATCHES)
    teacher = with_components(teacher, sample, channels, "naive_cache: principal components")
    answers = predict(forward_pass(teacher), plain_images(train, size), "naive_cache: plain images")

    def to_every_view() -> Iterator[Arrays]:
        numbers = np.tile(np.arange(len(train)), number_of_views(params.budget, len(train)))
        for start in range(0, len(numbers), BATCH):
            yield {name: values[numbers[start : start + BATCH]] for name, values in answers.items()}

    write_parts(ANSWERS, 0, to_every_view())


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())

"""The ablation of consistent views: `python -m presets.naive_cache naive.json`, after `dvc repro`.

The student sees views as ever, but the teacher answers the plain picture in place of each. Writes the final
metrics of the student distilled so, from logits and features and from logits alone; the workspace stays as it is.
"""

import contextlib
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

from distillation.files import read_json, write_json
from distillation.inference import plain_images
from distillation.params import Params, load_params
from stages import cache_teacher_logits, distill

NEEDED = ("params.yaml", "dvc.yaml", "stages", "distillation", "data/records", "models/teacher.weights.h5")


def main(metrics: Path) -> None:
    root = Path.cwd()
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        for name in NEEDED:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).symlink_to(root / name)
        params = load_params()
        answer_plain_pictures(params)
        rows = []
        for weight in sorted({0, params.distill.feature_weight}):
            loss = params.distill.model_copy(update={"feature_weight": weight})
            print(distill.main(params.model_copy(update={"distill": loss})))
            rows.append({"feature_weight": weight} | read_json("metrics/student_distilled.json"))
    write_json(metrics, rows)


def answer_plain_pictures(params: Params) -> None:
    """Do as `cache_teacher_logits`, but the answer to every view is that to the plain picture."""
    once = params.model_copy(update={"views": params.views.model_copy(update={"count": 1})})
    with mock.patch.object(cache_teacher_logits, "view_images", lambda records, size, *_: plain_images(records, size)):
        cache_teacher_logits.main(once)
    for answers in Path("data").rglob("*.npy"):
        np.save(answers, np.repeat(np.load(answers), params.views.count, axis=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())

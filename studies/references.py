"""What people would use instead of a student: a small pretrained network, trained on the same images as the teacher is.

`make front` measures the `references` of `front.yaml` beside its students.
"""

import contextlib
import subprocess
import tempfile
from pathlib import Path

from distillation import resume
from distillation.data.records import RECORDS
from distillation.files import read_json, replacing, write_json
from distillation.networks.network import load_network, macs, select
from distillation.params import Params
from distillation.preset import write_params
from stages import export, train_teacher


def train_reference(params: Params, folder: Path, made_of: str) -> None:
    """Train the teacher that `params` asks for on the images at hand, and keep in `folder` its files and scores.

    It is trained in a clone, so that the teacher and the metrics here stay as they are. The files are those that
    `export` makes of a student.

    Args:
        params: `teacher` is the reference.
        folder: to write `export/` and `run.json` to, whole or not at all.
        made_of: kept in `run.json`.
    """
    folder, shared = folder.absolute(), {path: path.absolute() for path in (RECORDS, resume.DIRECTORY)}
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["git", "clone", "--quiet", ".", directory], check=True)
        with contextlib.chdir(directory):
            for path, target in shared.items():  # checkpoints, too: a killed training goes on in the next clone
                path.symlink_to(target)
            write_params(params, Path("params.yaml"))  # what a killed training is known by
            train_teacher.main(params)
            network = select(load_network("models/teacher"), "logits")
            with replacing(folder) as temporary:
                temporary.mkdir()
                files = export.write_files(network, temporary / "export")
                result = read_json("metrics/teacher.json") | {
                    "made_of": made_of,
                    "params": params.model_dump(),
                    "files": files,
                    "parameters": network.count_params(),
                    "macs": macs(network),
                }
                write_json(temporary / "run.json", result)

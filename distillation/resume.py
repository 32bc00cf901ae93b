"""Unfinished work of a stage: where it is kept, and whether a later run may go on with it."""

import hashlib
import json
import shutil
from pathlib import Path

import keras

from distillation.params import leaves, read_yaml

DIRECTORY = Path(".checkpoints")  # ignored by git, and none of DVC's outs


def unfinished(stage: str) -> Path:
    """The folder for the finished parts of a run of `stage`; those of other parameters, code or data are removed."""
    folder = DIRECTORY / f"{stage}-{fingerprint(stage)[:16]}"
    for stale in set(DIRECTORY.glob(f"{stage}-*")) - {folder}:
        shutil.rmtree(stale)
    return folder


def fingerprint(stage: str) -> str:
    """SHA-256 of all that `stage` depends on: its command, deps and params in dvc.yaml, and the version of Keras."""
    definition = read_yaml("dvc.yaml")["stages"][stage]
    params = leaves(read_yaml("params.yaml"))
    digest = hashlib.sha256(json.dumps([definition, keras.version()], sort_keys=True).encode())
    for declared in definition["params"]:
        for key, value in params.items():
            if f"{key}.".startswith(f"{declared}."):
                digest.update(f"{key}={value!r}\n".encode())
    for dependency in definition["deps"]:
        key = dependency.removeprefix("${").removesuffix("}")
        path = Path(params[key] if key != dependency else dependency)  # DVC puts the parameter's value here
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_dir() or file.suffix == ".pyc" or file.name == ".DS_Store":  # DVC, too, leaves them out
                continue
            with file.open("rb") as content:
                digest.update(f"{file}={hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()

"""Training that survives being killed: after every epoch the whole state stands in one file."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import yaml

from distillation.errors import InputError
from distillation.files import replacing

DIRECTORY = Path(".checkpoints")  # ignored by git, and none of DVC's outs


def fingerprint(stage: str) -> str:
    """SHA-256 over all that `stage` depends on: in DVC's eyes (command, contents of deps, params), and Keras itself."""
    definition = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    digest = hashlib.sha256(json.dumps([definition, keras.version()], sort_keys=True).encode())
    for key in definition["params"]:
        section, leaf = key.split(".")
        digest.update(f"{key}={params[section][leaf]!r}\n".encode())
    for dependency in definition["deps"]:
        path = Path(dependency)
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_dir():
                continue
            with file.open("rb") as content:
                digest.update(f"{file}={hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def discard(stage: str) -> None:
    """Remove what `Checkpoint` saved: the stage has finished."""
    _path(stage).unlink(missing_ok=True)


class Checkpoint(keras.callbacks.Callback):
    """Saves weights, optimizer, epoch and history after each epoch, and takes them up again.

    `keras.callbacks.BackupAndRestore` writes weights and epoch as two files, so that a kill between
    them resumes one epoch off; here one file is renamed into place. A checkpoint made under other
    parameters, code or data has another `fingerprint` and is not taken up.
    """

    def __init__(self, stage: str):
        super().__init__()
        self.path = _path(stage)
        self.fingerprint = fingerprint(stage)
        self.history: list[dict[str, float]] = []

    def restore(self, model: keras.Model) -> int:
        """Bring `model` (compiled) to where a killed run left it; return how many epochs are done."""
        self.set_model(model)
        model.optimizer.build(model.trainable_variables)
        try:
            with np.load(self.path, allow_pickle=False) as file:
                state = dict(file)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return 0
        if str(state.get("fingerprint")) != self.fingerprint:
            return 0
        for number, variable in enumerate(self._variables()):
            variable.assign(state[f"variable{number}"])
        self.history = json.loads(str(state["history"]))
        return len(self.history)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        for name, value in logs.items():
            if not np.isfinite(value):
                raise InputError(f"{name} is {value} after epoch {epoch + 1}: a lower learning_rate may help")
        self.history.append({key: float(value) for key, value in logs.items()})
        state = {f"variable{number}": np.asarray(value) for number, value in enumerate(self._variables())}
        content = io.BytesIO()  # on a full disk NumPy would complain again after the error
        np.savez(content, fingerprint=self.fingerprint, history=json.dumps(self.history), **state)
        with replacing(self.path) as temporary:
            temporary.write_bytes(content.getbuffer())

    def _variables(self) -> list:
        return [*self.model.variables, *self.model.optimizer.variables]


def _path(stage: str) -> Path:
    return DIRECTORY / f"{stage}.npz"

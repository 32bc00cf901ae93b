"""Training that survives being killed: every report saves the whole state in one file."""

import io
import json
import zipfile
from collections.abc import Sequence

import keras
import numpy as np

from distillation.files import replacing
from distillation.resume import DIRECTORY, fingerprint

History = list[dict[str, float]]


class Checkpoint:
    """Saves and restores variables and history.

    `keras.callbacks.BackupAndRestore` writes weights and epoch as two files, so that a kill between
    them resumes one epoch off; here one file is renamed into place. A checkpoint of other parameters, code or data has
    another fingerprint and is ignored. A stage that trains in several steps names each in `step`.
    """

    def __init__(self, stage: str, variables: Sequence[keras.Variable], step: str = "fit"):
        self._path = DIRECTORY / f"{stage}.{step}.npz"
        self._fingerprint = fingerprint(stage)
        self._variables = variables

    def restore(self) -> History:
        """Set the variables to the saved state and return its history; without a checkpoint, return an empty list."""
        try:
            with np.load(self._path, allow_pickle=False) as file:
                state = dict(file)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return []
        if str(state.get("fingerprint")) != self._fingerprint:
            return []
        for number, variable in enumerate(self._variables):
            variable.assign(state[f"variable{number}"])
        return json.loads(str(state["history"]))

    def save(self, history: History) -> None:
        """Replace what was saved before."""
        state = {f"variable{number}": np.asarray(value) for number, value in enumerate(self._variables)}
        content = io.BytesIO()  # writing to a full disk itself, NumPy would print a second error
        np.savez(content, fingerprint=self._fingerprint, history=json.dumps(history), **state)
        with replacing(self._path) as temporary:
            temporary.write_bytes(content.getbuffer())


def discard(stage: str) -> None:
    """Remove what `Checkpoint` saved: the stage has finished."""
    for path in DIRECTORY.glob(f"{stage}.*.npz"):
        path.unlink()

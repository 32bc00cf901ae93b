"""Training that survives being killed: after every report the whole state stands in one file."""

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
    """Saves variables and history, and takes them up again.

    `keras.callbacks.BackupAndRestore` writes weights and epoch as two files, so that a kill between
    them resumes one epoch off; here one file is renamed into place. A checkpoint made under other
    parameters, code or data has another fingerprint and is not taken up. A stage that trains in several steps gives
    each a `step` of its own.
    """

    def __init__(self, stage: str, variables: Sequence[keras.Variable], step: str = "fit"):
        self._path = DIRECTORY / f"{stage}.{step}.npz"
        self._fingerprint = fingerprint(stage)
        self._variables = variables

    def restore(self) -> History:
        """Bring the variables to where a killed run left them; return the rows of its history, none at first."""
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
        content = io.BytesIO()  # on a full disk NumPy would complain again after the error
        np.savez(content, fingerprint=self._fingerprint, history=json.dumps(history), **state)
        with replacing(self._path) as temporary:
            temporary.write_bytes(content.getbuffer())


def discard(stage: str) -> None:
    """Remove what `Checkpoint` saved: the stage has finished."""
    for path in DIRECTORY.glob(f"{stage}.*.npz"):
        path.unlink()

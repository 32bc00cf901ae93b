"""One script a stage of dvc.yaml: `python -m stages.prepare`.

Every stage computes with TensorFlow, which greets on standard error in a way that no setting
silences; it is imported here once, and of what it says then only the greeting is held back.
"""

import os
import sys
import tempfile

GREETING = ("oneDNN custom operations are on", "All log messages before absl::InitializeLog")

# Read once, when TensorFlow and Keras are first imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")


def _import_tensorflow() -> None:
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            said.seek(0)
            for line in said.read().decode(errors="replace").splitlines():
                if not any(words in line for words in GREETING):
                    print(line, file=sys.stderr)


_import_tensorflow()

"""One script a stage of dvc.yaml: `python -m stages.prepare`.

Every stage uses TensorFlow, which writes a greeting to standard error that no setting silences. It is imported here
once, and only this greeting is hidden.
"""

import os

from distillation.quiet import without_lines

# Read once, when TensorFlow and Keras are first imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its "errors" are notes; real errors are exceptions
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # a fifth faster also on CPUs where it is not the default (AVX2)
os.environ["KERAS_BACKEND"] = "tensorflow"  # the stages train by tf.data and tf.function

with without_lines("oneDNN custom operations are on", "All log messages before absl::InitializeLog"):
    import tensorflow  # noqa: F401

"""The distillation loss, and the metrics that go with its packed targets.

A target row is `[label]` (hard label only) or `[label, teacher logit of class 0, class 1, ...]`: one
array, so that plain `Model.fit` trains a distilled student and the cached teacher costs nothing.
"""

import keras
from keras import ops


def distillation_loss(labels, student_logits, teacher_logits, alpha: float, temperature: float):
    """Loss of each example: alpha CE(y, s(z_s)) + (1 - alpha) T^2 KL(s(z_t / T) || s(z_s / T)), s = softmax.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015), section 2. The
    factor T^2 keeps the size of the soft term's gradient when T changes.

    Args:
        labels: (batch,) integer class numbers.
        student_logits, teacher_logits: (batch, classes) float32.
        alpha: weight of the hard label, 0..1; 1 is exactly the cross-entropy of training from scratch.
        temperature: T > 0.

    Returns:
        (batch,) float32, at least 0.
    """
    hard = ops.sparse_categorical_crossentropy(labels, student_logits, from_logits=True)
    teacher = ops.log_softmax(teacher_logits / temperature)
    student = ops.log_softmax(student_logits / temperature)
    soft = ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)
    return alpha * hard + (1 - alpha) * temperature**2 * soft


class DistillationLoss(keras.losses.Loss):
    """`distillation_loss` on packed targets; the cross-entropy where a row holds a label alone."""

    def __init__(self, alpha: float, temperature: float):
        super().__init__(name="distillation_loss")
        self.alpha, self.temperature = alpha, temperature

    def call(self, targets, logits):
        if targets.shape[-1] == 1:
            return cross_entropy(targets, logits)
        return distillation_loss(hard_labels(targets), logits, targets[:, 1:], self.alpha, self.temperature)


def cross_entropy(targets, logits):
    """Cross-entropy of each example against its hard label: (batch,) float32."""
    return ops.sparse_categorical_crossentropy(hard_labels(targets), logits, from_logits=True)


def accuracy(targets, logits):
    """1 where the largest logit is the hard label's, else 0: (batch,) float32."""
    return ops.cast(ops.equal(ops.argmax(logits, axis=-1), hard_labels(targets)), "float32")


def hard_labels(targets):
    """(batch,) int32 labels out of packed targets."""
    return ops.cast(targets[:, 0], "int32")

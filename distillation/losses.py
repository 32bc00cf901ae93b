"""The distillation loss, and the metrics that go with its packed targets.

A row of targets is `[label]`, or `[label, teacher's logits, teacher's features]`, and a row of
outputs `[logits]`, or `[logits, projected features]`: one array each, so that plain `Model.fit`
trains a distilled student and a cached teacher costs nothing.
"""

import keras
from keras import ops

from distillation.records import UNLABELED


def distillation_loss(labels, student_logits, teacher_logits, alpha: float, temperature: float):
    """Loss of each example: alpha CE(y, s(z_s)) + (1 - alpha) T^2 KL(s(z_t / T) || s(z_s / T)), s = softmax.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015), section 2. The
    factor T^2 keeps the size of the soft term's gradient when T changes.

    Args:
        labels: (batch,) integer class numbers; where one is `UNLABELED`, the hard term is 0.
        student_logits, teacher_logits: (batch, classes) float32.
        alpha: weight of the hard label, 0..1; 1 is exactly the cross-entropy of training from scratch.
        temperature: T > 0.

    Returns:
        (batch,) float32, in nats; at least 0 but for rounding.
    """
    hard = _cross_entropy(labels, student_logits)
    teacher = ops.log_softmax(teacher_logits / temperature)
    student = ops.log_softmax(student_logits / temperature)
    soft = ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)
    return alpha * hard + (1 - alpha) * temperature**2 * soft


class DistillationLoss(keras.losses.Loss):
    """`distillation_loss` on packed rows; the cross-entropy alone where targets hold nothing but the label.

    Where they hold feature maps too, the mean squared distance of the student's projected ones from the
    teacher's, over all values, joins the teacher's part of the loss: (1 - alpha) (T^2 KL + feature_weight MSE),
    the "hint" of Romero et al., "FitNets" (2015).

    Its weight fades from epoch to epoch: a hint speeds the beginning, but held on to, it costs accuracy in the end.
    """

    def __init__(self, classes: int, alpha: float = 1.0, temperature: float = 1.0, feature_weight: float = 0.0):
        super().__init__(name="distillation_loss")
        self.classes, self.alpha, self.temperature, self.feature_weight = classes, alpha, temperature, feature_weight
        self.hint = keras.Variable(1.0, trainable=False, name="hint")  # what is left of its weight

    def call(self, targets, outputs):
        if targets.shape[-1] == 1:
            return cross_entropy(targets, outputs, self.classes)
        logits, features = ops.split(outputs, [self.classes], axis=1)
        _, teacher_logits, teacher_features = ops.split(targets, [1, 1 + self.classes], axis=1)
        loss = distillation_loss(hard_labels(targets), logits, teacher_logits, self.alpha, self.temperature)
        if features.shape[-1] == 0:
            return loss
        distance = ops.mean(ops.square(features - teacher_features), axis=-1)
        return loss + (1 - self.alpha) * self.feature_weight * self.hint * distance

    def fade_hint(self, epoch: int, epochs: int) -> None:
        """Set the hint's weight for an epoch (from 0) of `epochs`: linear, from the whole down to 1 / epochs."""
        self.hint.assign(1 - epoch / epochs)


def cross_entropy(targets, outputs, classes: int):
    """Cross-entropy of each example against its hard label, 0 without one: (batch,) float32, in nats."""
    return _cross_entropy(hard_labels(targets), outputs[:, :classes])


def accuracy(targets, outputs, classes: int):
    """1 where the largest logit is the hard label's, else 0: (batch,) float32."""
    return ops.cast(ops.equal(ops.argmax(outputs[:, :classes], axis=-1), hard_labels(targets)), "float32")


class LabeledMean(keras.metrics.MeanMetricWrapper):
    """The mean of `cross_entropy` or `accuracy` over the examples that have a hard label."""

    def update_state(self, targets, outputs, sample_weight=None):
        return super().update_state(targets, outputs, ops.cast(hard_labels(targets) != UNLABELED, "float32"))


def hard_labels(targets):
    """(batch,) int32 labels out of packed targets."""
    return ops.cast(targets[:, 0], "int32")


def _cross_entropy(labels, logits):
    known = labels != UNLABELED
    entropy = ops.sparse_categorical_crossentropy(ops.where(known, labels, 0), logits, from_logits=True)
    return ops.where(known, entropy, 0.0)

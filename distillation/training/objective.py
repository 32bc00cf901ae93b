"""What training minimises: a sum of named, weighted terms, each a plain function.

    alpha · hard + (1 - alpha) · (soft + Σ weight · fade · term)

`hard` is the cross-entropy against the label, `soft` the divergence from the teacher's softened logits (Hinton,
Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2). `TERMS` has further terms, and
`distill.weights` their weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import tensorflow as tf
from keras import ops

from distillation.data.splits import UNLABELED
from distillation.networks.network import MAPS

Tensors = Mapping[str, tf.Tensor]


def hard(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of each image against its label, 0 where that is `UNLABELED`: (batch,) float32, in nats.

    Args:
        labels: (batch,) integer class numbers.
        logits: (batch, classes) float32.
    """
    known = labels != UNLABELED
    entropy = ops.sparse_categorical_crossentropy(ops.where(known, labels, 0), logits, from_logits=True)
    return ops.where(known, entropy, 0.0)


def soft(teacher_logits: tf.Tensor, student_logits: tf.Tensor, temperature: float) -> tf.Tensor:
    """T² KL(softmax(z_t / T) ‖ softmax(z_s / T)): (batch,) float32, in nats; not negative, except by rounding.

    The factor T² keeps the size of the gradient when T changes (Hinton et al., section 2.1).

    Args:
        teacher_logits, student_logits: (batch, classes) float32.
        temperature: T > 0.
    """
    teacher = ops.log_softmax(teacher_logits / temperature)
    student = ops.log_softmax(student_logits / temperature)
    return temperature**2 * ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)


def features(teacher: Tensors, student: Tensors) -> tf.Tensor:
    """Mean squared distance of the student's feature maps from the teacher's, over all values: (batch,) float32.

    The "hint" of Romero et al., "FitNets" (2015), equation 3, on two maps. Each of `MAPS` is (batch, height, width,
    channels), alike in both.
    """
    squares = [ops.sum(ops.square(student[name] - teacher[name]), axis=(1, 2, 3)) for name in MAPS]
    return sum(squares) / sum(teacher[name][0].shape.num_elements() for name in MAPS)


@dataclass(frozen=True)
class Term:
    """`function(teacher's outputs, student's outputs) -> (batch,)`, and the names of the outputs that it reads."""

    function: Callable[[Tensors, Tensors], tf.Tensor]
    reads: tuple[str, ...]


# By their names in `distill.weights`. They fade out: a hint speeds up the beginning, but later costs accuracy.
TERMS = {"features": Term(features, reads=MAPS)}


@dataclass(frozen=True)
class Objective:
    """The terms and their weights. Without arguments it is the cross-entropy alone, as from scratch."""

    alpha: float = 1
    temperature: float = 1
    weights: dict[str, float] = field(default_factory=dict)  # of `TERMS`; 0 leaves one out

    names = ("hard", "soft", *TERMS)

    def reads(self) -> list[str]:
        """Names of the teacher's outputs that the terms compare with the student's; none where alpha is 1."""
        if self.alpha == 1:
            return []
        return list(dict.fromkeys(["logits", *(name for term in self._further() for name in TERMS[term].reads)]))

    def __call__(self, batch: Mapping[str, tf.Tensor | Tensors], outputs: Tensors, fade: tf.Tensor) -> Tensors:
        """Each weighted term's mean over a batch, by name: scalars. Their sum is what training minimises.

        Args:
            batch: `label` (batch,) and, of the teacher's outputs, `teacher` (those that `reads` names). Of images that
                are mixed with others, also `partner_label` and `partner_share`, both (batch,).
            outputs: of the student, by the same names.
            fade: scalar in 0..1, by which the terms of `TERMS` are multiplied.
        """
        entropy = hard(batch["label"], outputs["logits"])
        if "partner_share" in batch:
            of_partner = hard(batch["partner_label"], outputs["logits"])
            entropy += batch["partner_share"] * (of_partner - entropy)
        terms = {"hard": self.alpha * entropy}
        if self.alpha < 1:
            teacher, share = batch["teacher"], 1 - self.alpha
            terms["soft"] = share * soft(teacher["logits"], outputs["logits"], self.temperature)
            for name in self._further():
                terms[name] = share * self.weights[name] * fade * TERMS[name].function(teacher, outputs)
        return {name: ops.mean(values) for name, values in terms.items()}

    def _further(self) -> list[str]:
        return [name for name in TERMS if self.weights.get(name)]

"""The head of a frozen backbone: multinomial logistic regression, solved instead of trained."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from threadpoolctl import threadpool_limits

# Values of `decay` that are tried, from strong to weak: fewer images need a stronger one.
DECAYS = (1, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
STOP = {"gtol": 1e-4, "ftol": 0, "maxiter": 1000}  # it ends when no entry of the gradient exceeds `gtol`
# Of the features' deviations, as a share of their root mean square; what varies less counts as if it varied so much.
# Features that almost never fire would else get weights so large that int8 has no steps left for the others.
LEAST_DEVIATION = 0.1


@dataclass(frozen=True)
class Head:
    """A linear head: `logits = features @ kernel + bias`."""

    kernel: np.ndarray  # (features, classes) float32
    bias: np.ndarray  # (classes,) float32
    decay: float  # that it was solved with

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(n, classes) float32 of (n, features) float32."""
        return features @ self.kernel + self.bias


@threadpool_limits.wrap(limits=1)  # thin matrices: more threads are slower and round differently
def solve_head(
    features: np.ndarray, labels: np.ndarray, held_out: np.ndarray, held_out_labels: np.ndarray, classes: int
) -> Head:
    """The head with the least mean cross-entropy + decay / 2 * sum(coefficient ** 2) over standardised features.

    Features that hardly vary are not scaled up to a deviation of 1 (`LEAST_DEVIATION`).

    The minimum is unique. L-BFGS (Liu and Nocedal, 1989) finds it in float64, without a learning rate, an order of
    images or a seed. The decay with the least cross-entropy on the held-out images is chosen: each solution is the
    start for the next decay, until one is worse.

    Args:
        features: (n, features) float32, of the training images.
        labels: (n,) integers, 0 to `classes` - 1.
        held_out: (m, features) float32, of the validation images.
        held_out_labels: (m,) integers.
        classes: number of logits.
    """
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    deviation = np.maximum(deviation, LEAST_DEVIATION * np.sqrt(np.mean(deviation**2)) or 1)
    standardised = features - mean
    standardised /= deviation  # in place: of 30,000 views it is 300 MB
    coefficients, best, least = np.zeros((features.shape[1] + 1, classes)), None, np.inf
    for decay in DECAYS:
        coefficients = _minimum(standardised, labels, decay, coefficients)
        kernel = coefficients[:-1] / deviation[:, None]
        head = Head(kernel.astype(np.float32), (coefficients[-1] - mean @ kernel).astype(np.float32), decay)
        loss = cross_entropy(head.logits(held_out), held_out_labels)
        if loss >= least:
            break
        best, least = head, loss
    return best


def scores(split: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`SPLIT_accuracy` and `SPLIT_loss`, the mean cross-entropy in nats, of (n, classes) logits against (n,) labels."""
    accuracy = float(np.mean(logits.argmax(axis=1) == labels))
    return {f"{split}_accuracy": accuracy, f"{split}_loss": cross_entropy(logits, labels)}


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy of (n, classes) logits against (n,) labels, in nats."""
    return float(-log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels].mean())


def _minimum(features: np.ndarray, labels: np.ndarray, decay: float, start: np.ndarray) -> np.ndarray:
    """(features + 1, classes) float64: the coefficients, and below them the biases, which don't decay."""
    truth = np.arange(start.shape[1]) == labels[:, None]

    def loss_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
        kernel, bias = np.split(values.reshape(start.shape), [-1])
        logits = features @ kernel + bias
        error = (softmax(logits, axis=1) - truth) / len(labels)
        gradient = np.concatenate([features.T @ error + decay * kernel, error.sum(axis=0, keepdims=True)])
        return cross_entropy(logits, labels) + decay / 2 * np.square(kernel).sum(), gradient.ravel()

    return minimize(loss_and_gradient, start.ravel(), jac=True, method="L-BFGS-B", options=STOP).x.reshape(start.shape)

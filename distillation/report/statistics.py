"""Statistics of predictions: accuracy with its interval, calibration, comparison of two models."""

from pathlib import Path

import numpy as np
from scipy import stats
from scipy.special import log_softmax, softmax
from sklearn.metrics import roc_auc_score

MODELS = {"teacher": "teacher", "student_scratch": "scratch", "student_distilled": "distilled"}  # and what they read as
PREDICTIONS = Path("data/predictions.parquet")  # of all three, on the test split

CONFIDENCE = 0.95
RESAMPLES = 9999
ECE_BINS = 15


def score(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Accuracy with its 95 % Wilson interval, NLL (nats), ECE and ROC AUC of one model, all 0..1 but the NLL.

    Args:
        labels: (n,) integer class numbers, every class present.
        logits: (n, classes) float.
    """
    probabilities = softmax(logits.astype(np.float64), axis=1)
    correct = probabilities.argmax(axis=1) == labels
    interval = stats.binomtest(int(correct.sum()), len(labels)).proportion_ci(CONFIDENCE, method="wilson")
    # Macro one-vs-rest beyond two classes; of two classes, the second one's probability ranks.
    scores = probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities
    return {
        "accuracy": float(correct.mean()),
        "accuracy_ci_low": float(interval.low),
        "accuracy_ci_high": float(interval.high),
        "nll": float(-log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels].mean()),
        "ece": expected_calibration_error(labels, probabilities),
        "roc_auc": float(roc_auc_score(labels, scores, multi_class="ovr", average="macro")),
    }


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> list[dict[str, float]]:
    """Rows of a reliability diagram: `ECE_BINS` equal-width bins of confidence, empty ones left out.

    Of labels (n,) integer and probabilities (n, classes) float; each row has the bin's mean `confidence`,
    `accuracy`, and `share` of the predictions (0..1).
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    return [
        {
            "confidence": float(confidence[bins == number].mean()),
            "accuracy": float(correct[bins == number].mean()),
            "share": float((bins == number).mean()),
        }
        for number in np.unique(bins)
    ]


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean gap between confidence and accuracy over the bins, by share: 0..1 (Guo et al., 2017, equation 3)."""
    return sum(row["share"] * abs(row["confidence"] - row["accuracy"]) for row in reliability(labels, probabilities))


def accuracy_difference(correct: np.ndarray, baseline_correct: np.ndarray) -> dict[str, float]:
    """How much more often one model is right than another on the same n pictures; both (n,) bool.

    Returns `accuracy` (difference, -1..1), `ci_low` and `ci_high` (95 %, paired percentile bootstrap)
    and `p_value` (exact McNemar test: a sign test over the pictures on which just one is right).
    """
    difference = correct.astype(float) - baseline_correct.astype(float)
    interval = stats.bootstrap(
        (difference,), np.mean, n_resamples=RESAMPLES, batch=256, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    won, lost = int((difference > 0).sum()), int((difference < 0).sum())
    return {
        "accuracy": float(difference.mean()),
        "ci_low": float(interval.low),
        "ci_high": float(interval.high),
        "p_value": float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0,
    }

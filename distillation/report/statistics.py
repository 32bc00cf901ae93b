"""Statistics of predictions: accuracy with its interval, calibration, comparison of two models."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import log_softmax, softmax
from sklearn.metrics import recall_score, roc_auc_score

MODELS = {"teacher": "teacher", "student_scratch": "scratch", "student_distilled": "distilled"}  # names in figures
PREDICTIONS = Path("data/predictions.parquet")  # of all three, on the test split

CONFIDENCE = 0.95
RESAMPLES = 9999
RESAMPLED_AT_ONCE = 2**20  # images: 24 MB of memory
ECE_BINS = 15


def score(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Scores of one model: accuracy with its 95 % Wilson interval, balanced accuracy, NLL (nats), ECE and ROC AUC.

    All but the NLL are 0..1. Balanced accuracy is the mean over the classes of the share that is recognised, ROC AUC
    the mean over the classes of one against the rest; classes without an image don't count.

    Args:
        labels: (n,) integer class numbers, at least two of the classes present.
        logits: (n, classes) float.
    """
    probabilities = softmax(logits.astype(np.float64), axis=1)
    predicted, present = probabilities.argmax(axis=1), np.unique(labels)
    correct = predicted == labels
    low, high = wilson(correct.mean(), len(labels))
    ranked = present[-1:] if probabilities.shape[1] == 2 else present  # of two, the other one's area is the same
    return {
        "accuracy": float(correct.mean()),
        "accuracy_ci_low": low,
        "accuracy_ci_high": high,
        "balanced_accuracy": float(recall_score(labels, predicted, labels=present, average="macro")),
        "nll": float(-log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels].mean()),
        "ece": expected_calibration_error(labels, probabilities),
        "roc_auc": float(np.mean([roc_auc_score(labels == label, probabilities[:, label]) for label in ranked])),
    }


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % Wilson interval of a share (0..1) that was seen in `n` trials."""
    interval = stats.binomtest(round(share * n), n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


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
    """How much more often one model is right than another on the same n images; both (n,) bool.

    Returns `accuracy` (difference, -1..1), `ci_low` and `ci_high` (95 %, paired percentile bootstrap) and `p_value`
    (exact McNemar test: a sign test over the images on which just one is right). Where one of the two is nowhere right
    alone, resamples can't show that it may be elsewhere: the interval is then Newcombe's.
    """
    difference = correct.astype(float) - baseline_correct.astype(float)
    won, lost, both = int((difference > 0).sum()), int((difference < 0).sum()), int((correct & baseline_correct).sum())
    neither = len(difference) - won - lost - both
    low, high = _bootstrap(difference) if won and lost else _newcombe(both, won, lost, neither)
    return {
        "accuracy": float(difference.mean()),
        "ci_low": low,
        "ci_high": high,
        "p_value": float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0,
    }


def _bootstrap(difference: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the mean of `difference` (n,)."""
    at_once = max(1, RESAMPLED_AT_ONCE // len(difference))  # resamples; the result does not depend on it
    interval = stats.bootstrap(
        (difference,), np.mean, n_resamples=RESAMPLES, batch=at_once, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _newcombe(both: int, won: int, lost: int, neither: int) -> tuple[float, float]:
    """95 % interval of the difference of two models' accuracies, by on how many images both, one or neither are right.

    Wilson's intervals of both, joined by their correlation (Newcombe, "Improved confidence intervals for the difference
    between binomial proportions based on paired data", 1998, method 10).
    """
    n = both + won + lost + neither
    first, second = (both + won) / n, (both + lost) / n
    (first_low, first_high), (second_low, second_high) = wilson(first, n), wilson(second, n)
    covariance = both * neither - won * lost
    if covariance > 0:
        covariance = max(0, covariance - n / 2)
    margins = (both + won) * (lost + neither) * (both + lost) * (won + neither)
    phi = covariance / margins**0.5 if margins else 0.0

    def joined(one: float, other: float) -> float:
        return (one**2 - 2 * phi * one * other + other**2) ** 0.5

    low = first - second - joined(first - first_low, second_high - second)
    return low, first - second + joined(first_high - first, second - second_low)


def hardest_classes(labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str], count: int = 10) -> pd.DataFrame:
    """The `count` classes that are recognised least, the worst first.

    Of labels and predicted classes, both (n,) integer, and the names of the classes. Columns: `class`, `images`,
    `accuracy` (share recognised, 0..1), and `taken_for`, the commonest mistake ("" where there is none).
    """
    table = pd.DataFrame({"label": labels, "right": predicted == labels})
    table = table.groupby("label")["right"].agg(["size", "mean"]).sort_values(["mean", "size"], kind="stable")
    mistakes = confusions(labels, predicted, classes, count=None).drop_duplicates("class").set_index("class")
    names = [classes[label] for label in table.index]
    return pd.DataFrame(
        {
            "class": names,
            "images": table["size"].to_numpy(),
            "accuracy": table["mean"].to_numpy(),
            "taken_for": mistakes["taken_for"].reindex(names).fillna("").to_numpy(),
        }
    ).head(count)


def confusions(
    labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str], count: int | None = 10
) -> pd.DataFrame:
    """The `count` commonest mistakes (None: all), the commonest first.

    Of labels and predicted classes, both (n,) integer. Columns: `class`, `taken_for`, `images`, and `share` (0..1) of
    the class's images.
    """
    table = pd.DataFrame({"label": labels, "predicted": predicted})
    of_class = table["label"].value_counts()
    table = table[table["label"] != table["predicted"]].value_counts().rename("images").reset_index()
    table = table.sort_values(["images", "label", "predicted"], ascending=[False, True, True]).iloc[:count]
    names = np.array(classes, object)
    return pd.DataFrame(
        {
            "class": names[table["label"].to_numpy(int)],
            "taken_for": names[table["predicted"].to_numpy(int)],
            "images": table["images"].to_numpy(),
            "share": table["images"].to_numpy() / of_class.loc[table["label"]].to_numpy(),
        }
    )

"""Score teacher, scratch and distilled student on the test split, and compare the two students."""

import keras
import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.metrics import roc_curve

from distillation.console import run
from distillation.data.records import Records
from distillation.files import replacing, write_json
from distillation.inference.forward import forward_pass, plain_images, predict
from distillation.inference.published import LiteRTTeacher, costs, load_trained
from distillation.params import Params
from distillation.report.statistics import (
    MODELS,
    PREDICTIONS,
    accuracy_difference,
    hardest_classes,
    reliability,
    score,
)

ROC_POINTS = 500  # at most
CONFUSION_CLASSES = 12  # at most: a larger matrix is not readable


def main(params: Params) -> str:
    """Write `metrics/evaluate.json`, the rows of the plots, and every test prediction.

    Scores are computed on test images. Teacher and scratch are compared on validation images, since people choose
    settings by this comparison.
    """
    records, validation = Records("test"), Records("validation")
    labels, classes = records.labels, records.manifest.classes
    logits, right, held_out, metrics = {}, {}, {}, {}  # right on test, and on held-out validation images
    for name in MODELS:  # the teacher first
        network = load_trained(f"models/{name}", "logits")
        logits[name] = _logits(network, records, f"evaluate: {name}")
        predicted = logits[name].argmax(axis=1)
        right[name] = predicted == labels
        metrics[name] = score(labels, logits[name]) | costs(network)
        if name != "teacher":
            agrees = predicted == logits["teacher"].argmax(axis=1)
            metrics[name]["agreement_with_teacher"] = float(agrees.mean())
        if name != "student_distilled":
            answers = _logits(network, validation, f"evaluate: {name} on validation")
            held_out[name] = answers.argmax(axis=1) == validation.labels
    metrics["distilled_minus_scratch"] = accuracy_difference(right["student_distilled"], right["student_scratch"])
    metrics["teacher_minus_scratch"] = accuracy_difference(held_out["teacher"], held_out["student_scratch"])
    metrics["compression"] = {
        key: metrics["teacher"][key] / metrics["student_distilled"][key] for key in ("parameters", "macs")
    }
    write_json("metrics/evaluate.json", metrics)
    for name, values in logits.items():
        probabilities = softmax(values.astype(np.float64), axis=1)
        write_json(f"plots/confusion/{name}.json", _confusion(labels, probabilities.argmax(axis=1), classes))
        write_json(f"plots/reliability/{name}.json", reliability(labels, probabilities))
        write_json(f"plots/roc/{name}.json", _roc(labels, probabilities))
    _write_predictions(records, logits)
    accuracies = ", ".join(f"{text} {metrics[name]['accuracy']:.3f}" for name, text in MODELS.items())
    return f"evaluate: test accuracy {accuracies}"


def _logits(network: keras.Model | LiteRTTeacher, records: Records, description: str) -> np.ndarray:
    """The logits of `network` for the plain view of each image: (n, classes) float32."""
    return predict(forward_pass(network), plain_images(records, network.input_shape[1]), description)["logits"]


def _confusion(labels: np.ndarray, predicted: np.ndarray, classes: list[str]) -> list[dict[str, str]]:
    """One row for each image; of many classes, only the hardest are named, and the others are joined."""
    shown = set(hardest_classes(labels, predicted, classes, CONFUSION_CLASSES)["class"])
    names = classes
    if len(classes) > CONFUSION_CLASSES:
        names = [name if name in shown else "(others)" for name in classes]
    return [{"actual": names[label], "predicted": names[guess]} for label, guess in zip(labels, predicted, strict=True)]


def _roc(labels: np.ndarray, probabilities: np.ndarray) -> list[dict[str, float]]:
    """ROC points; beyond two classes the micro-average over one-vs-rest decisions."""
    if probabilities.shape[1] == 2:
        positive, scores = labels == 1, probabilities[:, 1]
    else:
        positive, scores = np.eye(probabilities.shape[1], dtype=bool)[labels].ravel(), probabilities.ravel()
    false, true, _ = roc_curve(positive, scores)
    kept = np.unique(np.linspace(0, len(false) - 1, ROC_POINTS).round().astype(int))  # all, where there are fewer
    return [{"false_positive_rate": float(false[at]), "true_positive_rate": float(true[at])} for at in kept]


def _write_predictions(records: Records, logits: dict[str, np.ndarray]) -> None:
    """One row a test image: `id`, `source`, `label`, and each model's predicted class and list of logits."""
    classes = np.array(records.manifest.classes)
    table = pd.DataFrame({"id": records.ids, "source": records.sources, "label": classes[records.labels]})
    for name, values in logits.items():
        table[name] = classes[values.argmax(axis=1)]
        table[f"{name}_logits"] = list(values)
    with replacing(PREDICTIONS) as temporary:
        table.to_parquet(temporary)


if __name__ == "__main__":
    run(main)

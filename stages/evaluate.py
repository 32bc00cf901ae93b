"""Score teacher, scratch and distilled student on the test split, and compare the two students."""

import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.metrics import roc_curve

from distillation.console import run
from distillation.data.records import Records
from distillation.files import replacing, write_json
from distillation.inference.forward import forward_pass, plain_images, predict
from distillation.networks.network import load_network, macs, select
from distillation.params import Params
from distillation.report.statistics import MODELS, PREDICTIONS, accuracy_difference, reliability, score


def main(params: Params) -> str:
    """Write `metrics/evaluate.json`, the rows of the plots, and every test prediction."""
    records = Records("test")
    labels, classes = records.labels, records.manifest.classes
    logits, metrics = {}, {}
    for name in MODELS:
        network = select(load_network(f"models/{name}"), "logits")
        images = plain_images(records, network.input_shape[1])
        logits[name] = predict(forward_pass(network), images, f"evaluate: {name}")["logits"]
        metrics[name] = score(labels, logits[name]) | {"parameters": network.count_params(), "macs": macs(network)}
    predicted = {name: values.argmax(axis=1) for name, values in logits.items()}
    for name in ("student_scratch", "student_distilled"):
        metrics[name]["agreement_with_teacher"] = float((predicted[name] == predicted["teacher"]).mean())
    metrics["distilled_minus_scratch"] = accuracy_difference(
        predicted["student_distilled"] == labels, predicted["student_scratch"] == labels
    )
    metrics["compression"] = {
        key: metrics["teacher"][key] / metrics["student_distilled"][key] for key in ("parameters", "macs")
    }
    write_json("metrics/evaluate.json", metrics)
    _write_plots(labels, {name: softmax(values.astype(np.float64), axis=1) for name, values in logits.items()}, classes)
    _write_predictions(records, logits)
    accuracies = ", ".join(f"{name} {metrics[name]['accuracy']:.4f}" for name in MODELS)
    return f"evaluate: test accuracy {accuracies} -> metrics/evaluate.json"


def _write_plots(labels: np.ndarray, probabilities: dict[str, np.ndarray], classes: list[str]) -> None:
    for name, values in probabilities.items():
        rows = [
            {"actual": classes[label], "predicted": classes[guess]}
            for label, guess in zip(labels, values.argmax(axis=1), strict=True)
        ]
        write_json(f"plots/confusion/{name}.json", rows)
        write_json(f"plots/reliability/{name}.json", reliability(labels, values))
        write_json(f"plots/roc/{name}.json", _roc(labels, values))


def _roc(labels: np.ndarray, probabilities: np.ndarray) -> list[dict[str, float]]:
    """ROC points; beyond two classes the micro-average over one-vs-rest decisions."""
    if probabilities.shape[1] == 2:
        positive, scores = labels == 1, probabilities[:, 1]
    else:
        positive, scores = np.eye(probabilities.shape[1], dtype=bool)[labels].ravel(), probabilities.ravel()
    false, true, _ = roc_curve(positive, scores)
    return [{"false_positive_rate": float(x), "true_positive_rate": float(y)} for x, y in zip(false, true, strict=True)]


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

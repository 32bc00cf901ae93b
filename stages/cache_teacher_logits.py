"""Let the teacher answer every view of every training image once (`data/teacher_answers`)."""

import shutil

import keras
import tensorflow as tf
from sklearn.metrics import r2_score

from distillation import cluster
from distillation.console import note, run
from distillation.data.records import Records
from distillation.data.views import number_of_views
from distillation.errors import InputError, reason
from distillation.files import replacing
from distillation.inference import on_nodes
from distillation.inference.answers import ANSWERS, PART, forecast, whole_parts, write_parts
from distillation.inference.components import with_components
from distillation.inference.forward import (
    forward_pass,
    in_int8,
    in_litert,
    predict,
    predictions,
    to_litert,
    view_images,
)
from distillation.inference.litert import Network
from distillation.inference.published import LiteRTTeacher, load_trained
from distillation.params import Params
from distillation.resume import unfinished

STAGE = "cache_teacher_logits"
PCA_BATCHES = 32  # of images, which the principal components are found from
INT8_BATCHES = 4  # of images, which the ranges of int8 are found from
IN_FLOAT32 = "teacher.answers = int8, should be float32"
LEAST_EXPLAINED = 0.8  # share of the variance of the teacher's logits that their int8 version explains


def main(params: Params) -> str:
    """Write the teacher's logits and feature maps, for all views of the training images.

    All labeled images are answered, and unlabeled ones as far as the budget of answers reaches. Logits are stored raw,
    float32 (classes,), so another temperature or alpha does not run the teacher again. Of each feature map, the
    principal components are stored, float16 (height, width, channels). A killed run goes on after its last part. Where
    `RAY_ADDRESS` names a Ray cluster, its nodes compute the answers, unless the teacher is from a `.tflite` file, or
    LiteRT cannot convert it.
    """
    records, teacher = Records("train", at_most=params.budget.answered), load_trained("models/teacher")
    views = number_of_views(params.budget, len(records))
    size = teacher.input_shape[1]
    sample = view_images(records, size, params.views, 1).take(PCA_BATCHES)
    own = isinstance(teacher, LiteRTTeacher)  # it has no feature maps, and runs on this machine
    if own:
        if params.teacher.answers == "int8":
            note(f"{STAGE}: teacher.answers = int8 is passed over: {params.teacher.file} answers as it is")
    else:
        teacher = with_components(teacher, sample, params.distill.feature_channels, f"{STAGE}: principal components")
    folder = unfinished(STAGE)
    done = whole_parts(folder)
    if done * PART < views * len(records):
        network = teacher
        if params.teacher.answers == "int8" and not own:
            network = _quantised(teacher, sample.take(INT8_BATCHES))
        elif cluster.wanted() and not own:
            network = in_litert(teacher) or teacher
        on_cluster = cluster.wanted() and isinstance(network, Network)
        forward, images = forward_pass(network), view_images(records, size, params.views, views, first=done * PART)
        alone = " on this machine alone" if on_cluster else ""
        note(f"{STAGE}: {forecast(forward, images, views * len(records) - done * PART)}{alone}")
        label = f"{STAGE}: {views} views of {len(records):,} images"
        if on_cluster:
            with cluster.connected():
                batches = on_nodes.predictions(network, records, size, params.views, views, done * PART, label)
                write_parts(folder, done, batches)
        else:
            write_parts(folder, done, predictions(forward, images, label))
    with replacing(ANSWERS) as temporary:
        shutil.move(folder, temporary)
    return f"{STAGE}: {views} views of {len(records):,} images -> {ANSWERS}"


def _quantised(teacher: keras.Model, sample: tf.data.Dataset) -> Network:
    """`teacher` in int8; `InputError` where LiteRT cannot convert it, or its logits become others."""
    try:
        network = Network(to_litert(teacher, in_int8(sample, tf.float32)))
    except Exception as error:  # the converter raises half a dozen kinds
        raise InputError(f"{IN_FLOAT32}: LiteRT cannot convert this teacher to int8 ({reason(error)})") from None
    logits = [predict(forward_pass(each), sample, f"{STAGE}: check of int8")["logits"] for each in (teacher, network)]
    exact, rounded = (each - each.mean(axis=1, keepdims=True) for each in logits)  # softmax knows no common shift
    explained = r2_score(exact, rounded, multioutput="variance_weighted")
    if explained < LEAST_EXPLAINED:
        problem = f"its logits in int8 explain {100 * max(0, explained):.0f} % of the variance of those in float32"
        raise InputError(f"{IN_FLOAT32}: {problem}; at least {100 * LEAST_EXPLAINED:.0f} % are needed")
    return network


if __name__ == "__main__":
    run(main)

"""Train the teacher: solve a head on the frozen backbone, or (teacher.weights: null) train the whole network."""

from distillation.console import note, run
from distillation.data.records import Records
from distillation.networks.network import MAPS
from distillation.networks.teachers import build_teacher
from distillation.params import Params
from distillation.training.fit import publish, set_seed
from distillation.training.teacher import train_head, train_whole

STAGE, MODEL = "train_teacher", "teacher"


def main(params: Params) -> str:
    """Write the teacher's network, its final metrics and its history."""
    labeled, validation = Records("train", labeled_only=True), Records("validation")
    set_seed(params.teacher.seed)
    network = build_teacher(params.teacher, len(labeled.manifest.classes))
    if not set(MAPS) <= set(network.output):
        note(f"{STAGE}: {params.teacher.network} has no feature maps at 1/16 and 1/32 of the image: logits alone")
    train = train_whole if params.teacher.weights is None else train_head
    return publish(STAGE, MODEL, network, train(STAGE, MODEL, network, labeled, validation, params))


if __name__ == "__main__":
    run(main)

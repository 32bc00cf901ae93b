"""Train the teacher: a head is solved on the frozen backbone, and the backbone then fine-tuned where that helps.

With teacher.weights null, the whole network is trained from random weights instead. A trained classifier of one's own
(teacher.file) is checked and scored only.
"""

from distillation.console import note, run
from distillation.data.records import Records
from distillation.files import write_json
from distillation.networks.network import MAPS
from distillation.networks.teachers import build_teacher
from distillation.params import NO_FILE, Params
from distillation.training.fit import publish, published, set_seed
from distillation.training.own_teacher import take_own
from distillation.training.teacher import better, fine_tune, train_head, train_whole

STAGE, MODEL = "train_teacher", "teacher"


def main(params: Params) -> str:
    """Write the teacher's network, its final metrics and its history."""
    labeled, validation = Records("train", labeled_only=True), Records("validation")
    if params.teacher.file != NO_FILE:
        history = take_own(STAGE, MODEL, params.teacher, labeled, validation)
        return published(STAGE, MODEL, history)
    set_seed(params.teacher.seed)
    network = build_teacher(params.teacher, len(labeled.manifest.classes))
    if not set(MAPS) <= set(network.output):
        note(f"{STAGE}: {params.teacher.network} has no feature maps at 1/16 and 1/32 of the image: logits alone")
    if params.teacher.weights is None:
        history, choice = train_whole(STAGE, MODEL, network, labeled, validation, params), {}
    else:
        history, choice = train_head(STAGE, MODEL, network, labeled, validation, params), {}
        if params.teacher.fine_tune:
            tuned = fine_tune(STAGE, MODEL, network, labeled, validation, params)
            network, history, choice = better(STAGE, (network, history), tuned)
            write_json(f"plots/history/{MODEL}.json", history)
    return publish(STAGE, MODEL, network, history, choice)


if __name__ == "__main__":
    run(main)

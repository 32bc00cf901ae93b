"""Train the teacher: a head is solved on the frozen backbone, and the backbone then fine-tuned where that helps.

With teacher.weights null, the whole network is trained from random weights instead. A trained classifier of one's own
(teacher.file) is checked and scored only.
"""

from distillation.console import note, run
from distillation.data.records import Records
from distillation.networks.network import MAPS
from distillation.networks.teachers import build_teacher
from distillation.params import NO_FILE, Params
from distillation.training.fit import finish, publish, set_seed
from distillation.training.own_teacher import take_own
from distillation.training.teacher import MODEL, STAGE, better, fine_tune, train_head, train_whole


def main(params: Params) -> str:
    """Write the teacher's network, its final metrics and its history."""
    labeled, validation = Records("train", labeled_only=True), Records("validation")
    if params.teacher.file != NO_FILE:
        return finish(STAGE, MODEL, take_own(params.teacher, labeled, validation))
    set_seed(params.teacher.seed)
    network = build_teacher(params.teacher, len(labeled.manifest.classes))
    if not set(MAPS) <= set(network.output):
        note(f"{STAGE}: {params.teacher.network} has no feature maps at 1/16 and 1/32 of the image: logits alone")
    if params.teacher.weights is None:
        history = train_whole(network, params.budget.teacher, labeled, validation, params)
    else:
        history = train_head(network, labeled, validation, params)
    choice = {}
    if params.teacher.fine_tune:  # then there are weights
        tuned = fine_tune(network, labeled, validation, params)
        network, history, choice = better((network, history), tuned)
    return publish(STAGE, MODEL, network, history, choice)


if __name__ == "__main__":
    run(main)

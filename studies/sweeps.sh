#!/usr/bin/env bash
# How alpha, temperature, labels, patience and views matter, on a third of the photographs: `make studies`.
#
# Every run is an experiment of DVC's, seen with `dvc exp show`; what they say goes to results/cats_vs_dogs_studies.
# All is judged on validation, which here is as large as half of the training split.
set -euo pipefail
cd "$(dirname "$0")/.."
name=cats_vs_dogs
state=.checkpoints/${name}_studies
queued=$state.queued
head=$(git rev-parse HEAD)
if [ -f "$queued" ] && [ "$(<"$queued")" != "$head" ]; then # DVC shows the experiments of one commit together
    echo "error: the queued studies belong to commit $(<"$queued"): check it out, or delete $queued to begin anew" >&2
    exit 1
fi
source studies/stand_in.sh

# What the queue's copies of the workspace share is made here, once.
dvc exp run -S data.max_images=8000 -S data.validation_fraction=0.3 -S budget.shown=40000 -S budget.answered=30000 \
    -S views.augment.mix=0 \
    train_scratch distill
save_state
if [ ! -f "$queued" ]; then # else this goes on where it was interrupted
    if [[ $(dvc queue status) =~ Queued|Running|Failed ]]; then
        echo "error: experiments are queued or have failed (dvc queue status): run them (dvc queue start)" \
            "or drop them (dvc queue remove --queued --failed)" >&2
        exit 1
    fi
    dvc exp run --queue -S data.labeled_fraction=0.01,0.1 train_scratch distill
    dvc exp run --queue -S budget.shown=20000,80000,160000 train_scratch distill
    dvc exp run --queue -S distill.alpha=0,0.3,0.9 -S distill.temperature=1,2,8 distill
    dvc exp run --queue -S budget.answered=40000 distill # a fresh view each epoch, as a teacher would answer online
    dvc exp run --queue -S distill.weights.features=0 distill # logits alone
    mkdir -p .checkpoints && echo "$head" >"$queued"
fi
dvc exp run --run-all # its exit status is 0 also where it was interrupted, or an experiment failed
if [[ $(dvc queue status) =~ Queued|Running|Failed ]]; then
    echo "error: not all experiments are done (dvc queue status): call this again to go on, or, where some failed," \
        "drop them (dvc queue remove --failed), delete $queued and begin anew" >&2
    exit 1
fi
mkdir -p results/cats_vs_dogs_studies
python -m studies.naive_cache results/cats_vs_dogs_studies/naive_cache.json
dvc exp show --json | python -m studies.sweeps results/cats_vs_dogs_studies
rm "$queued" # last, so that what is interrupted above goes on without a new queue

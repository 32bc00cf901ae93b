#!/usr/bin/env bash
# Train a ladder of students of one teacher, and publish what each costs and gives: `make front NAME=cats_vs_dogs`.
#
# In the environment, LADDER is another table of students than studies/front.yaml, SHARE another share of the preset's
# budget, SEEDS student seeds. Interrupted, even killed, it goes on where it stopped when called again: the state is saved
# as it ends, with the stages that the student in training had finished.
set -euo pipefail
cd "$(dirname "$0")/.."
name=$1
state=.checkpoints/${name}_front
if [ ! -d "$state" ] && [ -d ".checkpoints/$name" ]; then # `make real` has made teacher and cache
    rm -rf "$state.new"
    cp -r ".checkpoints/$name" "$state.new"
    mv "$state.new" "$state"
fi
source studies/stand_in.sh

dvc repro cache_teacher_logits # all students share teacher and cache
python -m studies.ladder "$name" ${LADDER:+--ladder "$LADDER"} ${SHARE:+--share "$SHARE"} --seeds ${SEEDS:-0}

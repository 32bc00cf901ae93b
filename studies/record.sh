#!/usr/bin/env bash
# Run a preset and publish its record: `studies/record.sh cats_vs_dogs` (what `make real` calls).
#
# FOLDS="0 1 2 3 4" and SEEDS="0 1" in the environment ask for a run of each student seed on each fold of the data, and
# for another with scratch tuned for itself (presets/scratch_tuned.yaml). All runs of a fold share teacher and cache.
# Their metrics join the record's runs/, and stay there until preset, images, teacher's file or tuning change: further
# folds and seeds may come from other machines and later days. Interrupted, it goes on where it stopped when called again.
set -euo pipefail
cd "$(dirname "$0")/.."
name=$1
record=results/$name state=.checkpoints/$name
[ -d "$record" ] || [ ! -d "$record.old" ] || mv "$record.old" "$record" # killed between the two moves below
source studies/stand_in.sh

dvc repro
rm -rf "$record.partial"
mkdir -p "$record.partial"
cp -r params.yaml dvc.lock metrics plots models/export "$record.partial"
find "$record.partial" -name .gitignore -delete
cp data/records/manifest.json "$record.partial"
# Photographs of others are not ours to publish: these show some (and report.html, which git ignores).
for figure in $(python -c 'from stages.report import GALLERIES; print(*GALLERIES)'); do
    rm "$record.partial/plots/figures/$figure.png"
done
{
    git log -1 --format='commit %h'
    python -c 'import os, platform as p; print(f"Python {p.python_version()}, {p.system()} {p.machine()}, {os.cpu_count()} cores")'
    python -c 'from distillation import cpu; print(cpu.name())'
    python -m pip list --format=freeze --disable-pip-version-check \
        | grep -E '^(ai-edge-litert|dvc|keras|numpy|pillow|scikit-learn|scipy|tensorflow[a-z_-]*)=='
} >"$record.partial/environment.txt"
tuning=presets/scratch_tuned.yaml
continues=no
if [ -d "$record/runs" ]; then
    continues=$(python -m studies.summary "$record" --continues)
fi
if [ "$continues" = yes ]; then
    cp -r "$record/runs" "$record.partial"
    cmp -s "$tuning" "$record/runs/scratch_tuned.yaml" || rm -f "$record.partial"/runs/*.tuned.json
fi
rm -rf "$record.old"
[ ! -d "$record" ] || mv "$record" "$record.old"
mv "$record.partial" "$record"
rm -rf "$record.old"
save_state
echo "published $record; $record/plots/report.html shows the images too"

for fold in ${FOLDS:-${SEEDS:+0}}; do
    for seed in ${SEEDS:-0}; do
        run=$record/runs/fold-$fold.seed-$seed
        if [ ! -f "$run.json" ]; then
            dvc exp run -S "data.fold=$fold" -S "student.seed=$seed"
            mkdir -p "$record/runs" # not before: an experiment stashes what is not committed, and empty folders are lost
            python -m studies.summary --run "$run.json"
        fi
        if [ ! -f "$run.tuned.json" ]; then
            python -m distillation.preset "$name" scratch_tuned
            # `prepare` brings the fold's images where the run above was made before.
            dvc exp run --single-item -S "data.fold=$fold" -S "student.seed=$seed" prepare train_scratch evaluate
            python -m studies.summary --run "$run.tuned.json"
            cp "$tuning" "$record/runs"
        fi
        cp "$preset" params.yaml
    done
done
if compgen -G "$record/runs/*.json" >/dev/null; then
    python -m studies.summary "$record"
fi

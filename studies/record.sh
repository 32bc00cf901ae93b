#!/usr/bin/env bash
# Run a preset and publish its record: `studies/record.sh cats_vs_dogs [seed ...]` (what `make real` calls).
#
# Interrupted, it goes on where it stopped when called again. Each further student seed is an experiment of
# DVC's, twice: with the preset, and with scratch tuned for itself (presets/scratch_tuned.yaml); its metrics join
# the record's seeds/, and stay there until a run of the preset gives other metrics, or the tuning changes.
set -euo pipefail
cd "$(dirname "$0")/.."
name=$1
shift # to the seeds
record=results/$name state=.checkpoints/$name
source studies/stand_in.sh

dvc repro
rm -rf "$record.partial"
mkdir -p "$record.partial"
cp -r params.yaml dvc.lock metrics plots models/export "$record.partial"
find "$record.partial" -name .gitignore -delete
cp data/records/manifest.json "$record.partial"
# Photographs of others are not ours to publish: these show some (and report.html, which git ignores).
rm "$record.partial"/plots/figures/{disagreements,montage,soft_labels,views}.png
{
    git log -1 --format='commit %h'
    python -c 'import os, platform as p; print(f"Python {p.python_version()}, {p.system()} {p.machine()}, {os.cpu_count()} cores")'
    { grep -m 1 "model name" /proc/cpuinfo || sysctl -n machdep.cpu.brand_string || true; } 2>/dev/null
    python -m pip list --format=freeze --disable-pip-version-check \
        | grep -E '^(ai-edge-litert|dvc|keras|numpy|pillow|scikit-learn|scipy|tensorflow[a-z_-]*)=='
} >"$record.partial/environment.txt"
if cmp -s metrics/evaluate.json "$record/metrics/evaluate.json" && [ -d "$record/seeds" ]; then
    cp -r "$record/seeds" "$record.partial"
fi
rm -rf "$record"
mv "$record.partial" "$record"
save_state
echo "published $record; $record/plots/report.html shows the pictures too"

tuning=presets/scratch_tuned.yaml
if ! cmp -s "$tuning" "$record/seeds/scratch_tuned.yaml"; then
    rm -f "$record"/seeds/*.scratch.json
fi
for seed in "$@"; do
    metrics=$record/seeds/$seed.json tuned=$record/seeds/$seed.scratch.json
    if [ ! -f "$metrics" ]; then
        dvc exp run -S "student.seed=$seed"
        mkdir -p "$record/seeds" # not before: an experiment stashes what is not committed, and empty folders are lost
        cp metrics/evaluate.json "$metrics"
    fi
    if [ ! -f "$tuned" ]; then
        python -m distillation.preset "$name" scratch_tuned
        dvc exp run --single-item -S "student.seed=$seed" train_scratch evaluate
        cp "$tuning" "$record/seeds"
        # Of this seed, scratch alone counts: the distilled student in models/ is of the last seed it was trained with.
        python -c 'import json; print(json.dumps({"student_scratch": json.load(open("metrics/evaluate.json"))["student_scratch"]}))' >"$tuned"
        cp "$preset" params.yaml
    fi
done
if compgen -G "$record/seeds/*.json" >/dev/null; then
    python -m studies.seeds "$record"
fi

#!/usr/bin/env bash
# Run a preset and publish its record: `presets/run.sh cats_vs_dogs` (what `make real` calls).
#
# The preset stands in for params.yaml while it runs; afterwards params.yaml, dvc.lock, metrics/ and
# plots/ are what they were. Interrupted, it goes on where it stopped when called again.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=presets/$1.yaml
record=results/$1
tracked=(params.yaml dvc.lock metrics plots)

[ -f "$preset" ] || { echo "error: there is no $preset" >&2; exit 1; }
if ! cmp -s "$preset" params.yaml && ! git diff --quiet HEAD -- "${tracked[@]}"; then
    echo "error: ${tracked[*]} have changes that are not committed: commit or restore them first" >&2
    exit 1
fi
put_back() {
    git restore --source=HEAD --staged --worktree -- "${tracked[@]}"
    git clean -qfd -- metrics plots
    dvc checkout --quiet --allow-missing || true
}
trap put_back EXIT

cp "$preset" params.yaml
dvc repro
rm -rf "$record.partial"
mkdir -p "$record.partial"
cp -r params.yaml dvc.lock metrics plots models/export "$record.partial"
find "$record.partial" -name .gitignore -delete
# Photographs of others are not ours to publish: these show some.
rm "$record.partial"/plots/report.html "$record.partial"/plots/figures/{disagreements,montage,soft_labels,views}.png
python - >"$record.partial/environment.txt" <<'PYTHON'
import os
import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path

cpu = Path("/proc/cpuinfo")
names = [line.split(":")[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")] if cpu.exists() else []
print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} x {names[0] if names else platform.processor()}")
print(f"commit {subprocess.check_output(['git', 'rev-parse', '--short', 'HEAD'], text=True).strip()}")
print(f"Python {platform.python_version()}")
wanted = {"tensorflow", "tensorflow-cpu", "keras", "tensorflow-datasets", "ai-edge-litert", "numpy", "scipy", "scikit-learn", "pillow", "dvc"}
found = {package.name.lower().replace('_', '-'): package.version for package in distributions()}
print("\n".join(f"{name}=={version}" for name, version in sorted(found.items()) if name in wanted))
PYTHON
rm -rf "$record"
mv "$record.partial" "$record"
echo "published $record"

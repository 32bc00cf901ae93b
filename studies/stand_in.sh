# Sourced: presets/$name.yaml, completed, stands in for params.yaml until the script ends; afterwards params.yaml, dvc.lock,
# metrics/ and plots/ are what they were. What the preset made of them waits in $state for the next time: DVC's
# run cache knows no stage with metrics in git.
preset=$state.params.yaml
tracked=(params.yaml dvc.lock metrics plots)
saved=

[ -s .dvc/tmp/rwlock ] || rm -f .dvc/tmp/rwlock # killed as it writes it, DVC leaves it empty, and then refuses to run

mkdir -p "$(dirname "$state")"
cp params.yaml "$preset.new" # for its comments
python -m distillation.preset "$name" --output "$preset.new"
mv "$preset.new" "$preset"
save_state() {
    rm -rf "$state"
    mkdir -p "$state"
    cp -r dvc.lock metrics plots "$state"
    saved=yes
}
put_back() {
    [ "$saved" ] || save_state
    git restore --source=HEAD --staged --worktree -- "${tracked[@]}"
    git clean -qfd -- metrics plots
    dvc checkout --quiet --allow-missing || true
}

if ! cmp -s "$preset" params.yaml; then # else it stands in already, since a killed run put nothing back
    if [ -n "$(git status --porcelain -- "${tracked[@]}")" ]; then
        echo "error: there are changes that are not committed: commit them, or git restore ${tracked[*]}" >&2
        exit 1
    fi
    cp "$preset" params.yaml
    if [ -d "$state" ]; then
        cp -r "$state"/. .
        dvc checkout --quiet --allow-missing
    fi
fi
trap put_back EXIT

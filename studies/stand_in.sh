# Sourced: presets/$name.yaml, completed, stands in for params.yaml until the script ends; afterwards params.yaml, dvc.lock,
# metrics/ and plots/ are what they were. What the preset made of them waits in $state for the next time: DVC's
# run cache knows no stage with metrics in git.
preset=$state.params.yaml
standing=$state.standing # is there while the preset stands in; a killed run leaves it, and what it did is taken up
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
    rm -f "$standing"
}

if [ -z "$(git status --porcelain -- "${tracked[@]}")" ]; then
    touch "$standing"
    if [ -d "$state" ]; then
        cp -r "$state"/. .
        dvc checkout --quiet --allow-missing
    fi
elif [ ! -e "$standing" ]; then
    echo "error: there are changes that are not committed: commit them, or git restore ${tracked[*]}" >&2
    exit 1
else
    cp params.yaml "$state.killed.yaml" # it may have been edited since
    echo "going on with a run that was killed; the params.yaml that stood here is kept as $state.killed.yaml" >&2
fi
trap put_back EXIT
cp "$preset" params.yaml

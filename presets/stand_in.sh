# Sourced: presets/$name.yaml stands in for params.yaml until the script ends; afterwards params.yaml, dvc.lock,
# metrics/ and plots/ are what they were. What the preset made of them waits in $state for the next time: DVC's
# run cache knows no stage with metrics in git.
preset=presets/$name.yaml
tracked=(params.yaml dvc.lock metrics plots)
saved=

[ -f "$preset" ] || { echo "error: there is no $preset" >&2; exit 1; }
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

# Sourced: presets/$name.yaml, completed, stands in for params.yaml until the script ends; afterwards params.yaml, dvc.lock,
# metrics/ and plots/ are what they were. What the preset made of them waits in $state for the next time: DVC's
# run cache knows no stage with plots in git.
preset=$state.params.yaml
standing=$state.standing # holds the branch while the preset stands in; a killed run leaves it, and is taken up
tracked=(params.yaml dvc.lock metrics plots)
saved=

[ -s .dvc/tmp/rwlock ] || rm -f .dvc/tmp/rwlock # killed as it writes it, DVC leaves it empty, and then refuses to run

mkdir -p "$(dirname "$state")"
cp params.yaml "$preset.new" # for its comments
python -m distillation.preset "$name" --output "$preset.new"
mv "$preset.new" "$preset"
save_state() {
    rm -rf "$state.new"
    mkdir -p "$state.new"
    cp -r dvc.lock metrics plots "$state.new"
    rm -rf "$state"
    mv "$state.new" "$state"
    saved=yes
}
# Killed in the workspace, `dvc exp run` leaves git on a detached head.
return_to_branch() {
    local branch
    branch=$(<"$standing")
    if [ "$branch" ] && ! git symbolic-ref -q HEAD >/dev/null && [ "$(git rev-parse HEAD "$branch" | uniq | wc -l)" -eq 1 ]
    then
        git symbolic-ref HEAD "$branch"
    fi
}
put_back() {
    [ "$saved" ] || save_state
    git restore --source=HEAD --staged --worktree -- "${tracked[@]}"
    git clean -qfd -- metrics plots
    dvc checkout --quiet --allow-missing || true
    return_to_branch
    rm -f "$standing"
}

if [ -e "$standing" ]; then
    return_to_branch
fi
if [ -z "$(git status --porcelain -- "${tracked[@]}")" ]; then
    git symbolic-ref -q HEAD >"$standing" || true
    saved=yes # until what the state holds stands here
    trap put_back EXIT
    if [ -d "$state" ]; then
        cp -r "$state"/. .
        dvc checkout --quiet --allow-missing
    fi
    saved=
elif [ ! -e "$standing" ]; then
    echo "error: there are changes that are not committed: commit them, or git restore ${tracked[*]}" >&2
    exit 1
else
    killed=$state.killed.$(date +%Y%m%d-%H%M%S) # what stands here may be someone's since
    mkdir -p "$killed"
    cp -r "${tracked[@]}" "$killed" || true # some may be gone
    echo "going on with a run that was killed; ${tracked[*]} are kept as they stood here, in $killed" >&2
    trap put_back EXIT
fi
cp "$preset" params.yaml

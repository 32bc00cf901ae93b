"""A grid of experiments on the nodes of a Ray cluster, one a node at a time.

    RAY_ADDRESS=HOST:6379 python -m studies.grid -S distill.alpha=0.1,0.3 -S 'student.seed=range(0,10)'

`-S` is DVC's own: this runs what `dvc exp run --queue` would queue. Each experiment runs in a fresh clone of this
commit from the Git remote `origin`, gets its data from the DVC remote, and sends there what it made; nodes must be able
to reach both. Afterwards `dvc exp pull origin` and `dvc exp show` list them, here or in any other clone. Started again,
it runs those that are missing.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import get_hydra_sweeps

from distillation import cluster
from distillation.errors import InputError, reason

REMOTE = "origin"
# What Ray sets for its own processes; an experiment uses all cores, as it would without Ray.
OF_RAY = ("RAY_", "TF_NUM_", "OMP_NUM_THREADS", "PYTHONPATH")


def experiments(settings: list[str]) -> dict[str, list[str]]:
    """What `-S` options ask for: the `-S` options of each experiment, by its name.

    The name follows from the settings, so that it is the same when the grid is started again.
    Raises `InputError` where DVC does not understand them.
    """
    try:
        sweeps = get_hydra_sweeps(to_path_overrides(settings))
    except Exception as error:  # DVC lets exceptions of two other libraries through
        raise InputError(f"-S {' -S '.join(settings)}: {reason(error)}") from None
    found = {}
    for sweep in sweeps:
        each = [f"{path}:{setting}" for path, changed in sweep.items() for setting in changed]
        words = "-".join(re.sub(r"^.*[:.](?=\w+=)", "", setting) for setting in each)
        short = re.sub(r"[^\w.]+", "-", words)[:60].strip("-.")
        found[f"{short}-{hashlib.sha256(repr(each).encode()).hexdigest()[:6]}"] = each
    return found


def main(settings: list[str]) -> list[str]:
    """Run the grid that `settings` (of `-S`) span; return the names of those that failed."""
    if not cluster.wanted():
        raise InputError("RAY_ADDRESS is not set: it names the cluster, such as 192.0.2.1:6379")
    wanted, commit = experiments(settings), _git("rev-parse", "HEAD")
    url = _ready(commit)
    listed = _git("ls-remote", REMOTE, f"refs/exps/{commit[:2]}/{commit[2:]}/*")
    there = {line.rpartition("/")[2] for line in listed.splitlines()}
    missing = {name: each for name, each in wanted.items() if name not in there}
    print(f"{len(wanted)} experiments, of which {len(missing)} are still to be run", flush=True)
    author, email = _git("log", "-1", "--format=%cn%n%ce").splitlines()
    failed = []
    with cluster.connected():
        import ray

        # All CPUs of a node, or of the smallest where they differ.
        cpus = min(cpus for node in ray.nodes() if node["Alive"] and (cpus := node["Resources"].get("CPU")))
        task = ray.remote(num_cpus=cpus, max_retries=cluster.RETRIES)(_run)
        running = {task.remote(url, commit, (author, email), name, each): name for name, each in missing.items()}
        while running:
            (ended,), _ = ray.wait([*running], num_returns=1)
            name, problem = running.pop(ended), ray.get(ended)
            print(f"{name}: {problem or 'done'}", flush=True)
            if problem:
                failed.append(name)
    print(f"{len(wanted) - len(failed)} of {len(wanted)} are done: dvc exp pull {REMOTE} && dvc exp show")
    return failed


def _ready(commit: str) -> str:
    """The address of the Git remote, from which nodes can clone `commit`; `InputError` where they could not."""
    try:
        url = _git("remote", "get-url", REMOTE)
    except subprocess.CalledProcessError:
        raise InputError(f"there is no Git remote {REMOTE}: git remote add {REMOTE} URL") from None
    if _git("status", "--porcelain", "--untracked-files=no"):
        raise InputError(f"there are changes that are not committed: commit and push them, since nodes clone {REMOTE}")
    _git("fetch", "--quiet", REMOTE)
    if not _git("branch", "--remotes", "--contains", commit, "--list", f"{REMOTE}/*"):
        raise InputError(
            f"commit {commit[:7]} is not on the Git remote {REMOTE}: push it, since nodes clone the remote"
        )
    if subprocess.run([sys.executable, "-m", "dvc", "config", "core.remote"], capture_output=True).returncode:
        raise InputError("there is no default DVC remote: dvc remote add -d NAME URL, commit and push, then dvc push")
    return url


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout.strip()


def _run(url: str, commit: str, author: tuple[str, str], name: str, settings: list[str]) -> str | None:
    """On a node: run one experiment in a clone of its own; return what went wrong, if anything did."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(OF_RAY)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    dvc, options = [sys.executable, "-m", "dvc"], [word for setting in settings for word in ("-S", setting)]
    with tempfile.TemporaryDirectory() as clone:
        for command in (
            ["git", "clone", "--quiet", url, clone],
            ["git", "checkout", "--quiet", "--detach", commit],
            ["git", "config", "user.name", author[0]],
            ["git", "config", "user.email", author[1]],
            [*dvc, "pull"],
            [*dvc, "exp", "run", "--name", name, *options],
            [*dvc, "push"],
            # Last, so that an experiment is listed only if its data are there.
            [*dvc, "exp", "push", "--no-cache", "--force", REMOTE, name],
        ):
            done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
            if done.returncode:
                said = [line for line in (done.stdout + done.stderr).splitlines() if line.lower().startswith("error")]
                words = " ".join(command).replace(" ".join(dvc), "dvc")
                return f"`{words}` failed ({said[0] if said else f'exit status {done.returncode}'})"
    return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "-S", "--set-param", action="append", required=True, help="as of `dvc exp run`", dest="settings"
    )
    try:
        if failed := main(parser.parse_args().settings):
            sys.exit(f"error: {len(failed)} failed: {', '.join(failed)}")
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; run it again to go on")

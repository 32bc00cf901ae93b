"""Images, the teacher's answers and a grid of experiments on a Ray cluster: two nodes of one CPU on this machine."""

import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import pytest
from clone import ROOT, Clone, draw_folder
from helpers import changed
from keras import layers

from distillation import cluster, resume
from distillation.data.records import RECORDS
from distillation.data.splits import Example
from distillation.errors import InputError
from distillation.files import read_json
from distillation.inference import answers, on_nodes
from distillation.inference.answers import ANSWERS
from distillation.inference.forward import BATCH, Arrays
from distillation.networks.network import save_network
from distillation.networks.students import build_student
from distillation.params import Params
from distillation.sources import spool
from distillation.sources.open import Original
from stages import cache_teacher_logits, prepare
from studies import grid

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="needs Ray: pip install -r requirements-cluster.txt")
from ray.cluster_utils import Cluster  # noqa: E402

pytestmark = pytest.mark.slow
STORE = 100 * 2**20  # bytes of each node's object store
VIEWS = 20


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A cluster whose head has no CPU; a lost node is noticed within seconds."""
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    started = Cluster(initialize_head=True, head_node_args=head | {"_system_config": quick})
    yield started
    started.shutdown()


@pytest.fixture
def two(nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster with two nodes of one CPU each, named by the environment."""
    while len(nodes.worker_nodes) < 2:
        nodes.add_node(num_cpus=1, object_store_memory=STORE)
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    return nodes


@pytest.fixture
def mix() -> float:
    """Largest share of another image in a view; a test may give it another value."""
    return 0


@pytest.fixture
def workplace(
    records_directory: Path, params: Params, mix: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Params:
    """A folder that looks to the stage like the repository: 20 views of 24 images, 64 answers a part and 32 a task."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(resume, "fingerprint", lambda stage: f"of {stage}")
    monkeypatch.setattr(answers, "PART", 2 * BATCH)
    monkeypatch.setattr(cache_teacher_logits, "PART", 2 * BATCH)
    monkeypatch.setattr(on_nodes, "TASK", BATCH)
    shutil.copytree(records_directory, "data/records")
    keras.utils.set_random_seed(0)
    teacher = build_student(changed(params.student, image_size=64, channels=[8, 16]), classes=3)
    for layer in teacher.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(keras.ops.ones(layer.gamma.shape))
    save_network(teacher, "models/teacher")
    images = sum(read_json("data/records/manifest.json")["counts"]["train"].values())
    budget, distill = changed(params.budget, answered=VIEWS * images), changed(params.distill, feature_channels=4)
    views = changed(params.views, augment=params.views.augment.model_dump() | {"mix": mix})
    return params.model_copy(update={"budget": budget, "distill": distill, "views": views})


@pytest.fixture
def alone(workplace: Params) -> dict[str, bytes]:
    """The answers that this machine gives by itself."""
    cache_teacher_logits.main(workplace)
    made = contents(ANSWERS)
    shutil.rmtree(ANSWERS)
    assert len(made) == 8 * 3  # parts of logits and two maps
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def after(batches: int, action: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `action` happen when the cluster has given so many batches of answers."""
    original = on_nodes.predictions

    def predictions(*arguments: object) -> Iterator[Arrays]:
        for number, batch in enumerate(original(*arguments)):
            if number == batches:
                action()
            yield batch

    monkeypatch.setattr(on_nodes, "predictions", predictions)


def complaint(params: Params) -> str:
    with pytest.raises(InputError) as caught:
        cache_teacher_logits.main(params)
    assert not ray.is_initialized()
    assert "\n" not in str(caught.value)
    assert not ANSWERS.exists()
    return str(caught.value)


@pytest.mark.parametrize("mix", [0.5])  # none are mixed in the tests below
def test_nodes_answer_as_this_machine_does(
    alone: dict[str, bytes], workplace: Params, two: Cluster, capsys: pytest.CaptureFixture
):
    cache_teacher_logits.main(workplace)
    assert contents(ANSWERS) == alone
    assert not ray.is_initialized()
    assert "warning" not in capsys.readouterr().err


def test_node_that_is_killed_costs_nothing_and_cpus_of_other_kinds_are_named(
    alone: dict[str, bytes],
    workplace: Params,
    two: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    monkeypatch.setattr(cluster, "_kind", lambda: "another kind")  # of the driver alone
    victim = next(iter(two.worker_nodes))
    after(3, lambda: two.remove_node(victim, allow_graceful=False), monkeypatch)
    cache_teacher_logits.main(workplace)
    assert len(two.worker_nodes) == 1
    assert contents(ANSWERS) == alone
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert "this machine: another kind; node" in line


def test_stage_that_is_interrupted_goes_on_after_the_last_whole_part(
    alone: dict[str, bytes], workplace: Params, two: Cluster, monkeypatch: pytest.MonkeyPatch
):
    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        after(5, interrupt, patch)
        with pytest.raises(KeyboardInterrupt):
            cache_teacher_logits.main(workplace)
    ray.init(two.address, logging_level="ERROR")
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU") != 2:  # its tasks are no more
        assert time.monotonic() < deadline
        time.sleep(0.5)
    ray.shutdown()
    folder = resume.unfinished(cache_teacher_logits.STAGE)
    assert sorted(path.name for path in folder.iterdir()) == ["part-00000", "part-00001"]
    cache_teacher_logits.main(workplace)
    assert contents(ANSWERS) == alone


def test_other_versions_are_named(workplace: Params, two: Cluster, monkeypatch: pytest.MonkeyPatch):
    has = cluster._versions()
    monkeypatch.setattr(cluster, "_versions", lambda: has | {"Python": "3.12.99"})
    assert f"has Python {has['Python']}, " in (line := complaint(workplace))
    assert "should have Python 3.12.99, " in line


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A folder with 82 images to prepare, 8 a task."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(spool, "TASK", 8)
    draw_folder(Path("photos"))
    Path("none").mkdir()
    Path("none/README.md").touch()
    Path("names.txt").touch()
    data = {"name": "folder", "folder": "photos", "unlabeled": "none", "class_names": "names.txt", "image_size": 40}
    return Params(data=changed(Params().data, **data))


def test_nodes_prepare_images_as_this_machine_does_though_one_is_killed(
    photos: Params, nodes: Cluster, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    prepare.main(photos)
    alone = contents(RECORDS)
    two, read = request.getfixturevalue("two"), spool.stored
    victim = next(iter(two.worker_nodes))

    def stored(images: Iterator[Original], *settings: object) -> Iterator[tuple[Example, int]]:
        for number, example in enumerate(read(images, *settings)):
            if number == 20:
                two.remove_node(victim, allow_graceful=False)
            yield example

    monkeypatch.setattr(prepare, "stored", stored)
    prepare.main(photos)
    assert len(two.worker_nodes) == 1
    assert contents(RECORDS) == alone
    assert not ray.is_initialized()


def test_image_that_a_node_cannot_read_is_named(photos: Params, two: Cluster):
    Path("photos/dark/13.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"dark/13.png: not an image that Pillow can read"):
        prepare.main(photos)
    assert not RECORDS.exists()
    assert not ray.is_initialized()


STAGE = """
import json, pathlib, sys, yaml
values = yaml.safe_load(open("params.yaml"))
alpha, seed = values["distill"]["alpha"], values["student"]["seed"]
if alpha > 1:
    sys.exit(f"error: distill.alpha = {alpha}")
weight = float(open("weight.txt").read())
pathlib.Path("model.txt").write_text(f"model {alpha} {seed}")
pathlib.Path("metrics.json").write_text(json.dumps({"accuracy": weight * alpha + seed}))
"""
PIPELINE = """
stages:
  distill:
    cmd: python stage.py
    deps: [stage.py, weight.txt]
    params: [distill.alpha, student.seed]
    outs: [model.txt]
    metrics: [metrics.json: {cache: false}]
"""


@pytest.fixture
def here(tmp_path: Path) -> Clone:
    """A clone of a repository with one quick stage and a file of data; its remotes are a bare repository and a folder.

    The data are in no cache but the DVC remote.
    """
    here = Clone(tmp_path / "here")
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", tmp_path / "bare"], check=True)
    subprocess.run(["git", "clone", "-q", tmp_path / "bare", here.path], check=True, capture_output=True)
    here.run("git", "checkout", "-qb", "main")
    here.run("git", "config", "user.name", "t")
    here.run("git", "config", "user.email", "t@example.org")
    (here.path / "stage.py").write_text(STAGE)
    (here.path / "dvc.yaml").write_text(PIPELINE)
    (here.path / "params.yaml").write_text("distill:\n  alpha: 0.1\nstudent:\n  seed: 0\n")
    (here.path / "weight.txt").write_text("0.5")
    here.run("dvc", "init", "-q")
    here.run("dvc", "remote", "add", "-d", "storage", str(tmp_path / "storage"))
    here.run("dvc", "add", "weight.txt")
    here.run("dvc", "repro")
    here.commit("begin")
    return here


def metrics(clone: Clone) -> dict[tuple[float, int], dict]:
    """The metrics of every experiment, by alpha and seed."""
    shown = json.loads(clone.run("dvc", "exp", "show", "--json").stdout)
    found = {}
    for experiment in itertools.chain(*(revision["experiments"] or [] for revision in shown)):
        data = experiment["revs"][0]["data"]
        params = data["params"]["params.yaml"]["data"]
        found[params["distill"]["alpha"], params["student"]["seed"]] = data["metrics"]["metrics.json"]["data"]
    return found


def test_grid_is_what_the_queue_would_run(here: Clone, two: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(alpha: str) -> subprocess.CompletedProcess:
        return here.run(
            "python", "-m", "studies.grid", "-S", f"distill.alpha={alpha}", "-S", "student.seed=range(0,2)", check=False
        )

    assert "is not on the Git remote origin" in run("0.2").stderr
    here.run("git", "push", "-q", "origin", "main")
    here.run("dvc", "push")
    (here.path / "params.yaml").write_text("distill:\n  alpha: 0.9\nstudent:\n  seed: 0\n")
    assert "changes that are not committed" in run("0.2").stderr
    here.run("git", "checkout", "-q", "params.yaml")
    first = run("0.2,7")
    assert first.returncode == 1
    failed = [line for line in first.stdout.splitlines() if "failed" in line]
    assert sorted(line[:14] for line in failed) == ["alpha-7-seed-0", "alpha-7-seed-1"]
    assert all("error: distill.alpha = 7" in line for line in failed)
    assert "2 of 4 are done" in first.stdout
    more = run("0.2,0.6")
    assert more.returncode == 0
    assert "4 experiments, of which 2 are still to be run" in more.stdout
    third = Clone(tmp_path / "third")
    here.run("git", "clone", "-qb", "main", str(tmp_path / "bare"), str(third.path))
    third.run("dvc", "exp", "pull", "origin")
    found = metrics(third)
    assert {settings: row["accuracy"] for settings, row in found.items()} == {
        (alpha, seed): 0.5 * alpha + seed for alpha in (0.2, 0.6) for seed in (0, 1)
    }
    done = [line.removesuffix(": done") for line in more.stdout.splitlines() if line.endswith(": done")]
    third.run("dvc", "exp", "apply", done[0])
    assert (third.path / "model.txt").read_text().startswith("model 0.6 ")
    here.run("dvc", "exp", "run", "--queue", "-S", "distill.alpha=0.6", "-S", "student.seed=range(0,2)")
    here.run("dvc", "exp", "run", "--run-all")
    assert metrics(here) == {settings: row for settings, row in found.items() if settings[0] == 0.6}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["a.b=1,2", "c=x"], [["a.b=1", "c=x"], ["a.b=2", "c=x"]]),
        (["a.b=range(0,3)"], [["a.b=0"], ["a.b=1"], ["a.b=2"]]),
        (["a=[16,32],[8]"], [["a=[16,32]"], ["a=[8]"]]),
    ],
)
def test_names_of_a_grid_are_of_its_settings(settings: list[str], expected: list[list[str]]):
    found = grid.experiments(settings)
    assert [*found.values()] == [[f"params.yaml:{setting}" for setting in each] for each in expected]
    assert grid.experiments(settings) == found
    assert len(found) == len(expected)
    assert all(re.fullmatch(r"[\w.]+(-[\w.]+)*", name) for name in found)


def test_cluster_that_is_not_there_is_named(workplace: Params, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    for wrong in (address, "nowhere"):
        monkeypatch.setenv("RAY_ADDRESS", wrong)
        assert complaint(workplace).startswith(f"RAY_ADDRESS = {wrong}: the cluster cannot be joined (")


def test_cluster_without_a_free_cpu_is_named(workplace: Params, two: Cluster, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster, "PATIENCE", 2)
    for node in [*two.worker_nodes]:
        two.remove_node(node)
    assert "no CPU came free within 2 s (0 of 0 are free): add nodes" in complaint(workplace)


def test_cluster_that_loses_all_its_nodes_is_named(two: Cluster, monkeypatch: pytest.MonkeyPatch):
    def items() -> Iterator[int]:
        yield 1
        monkeypatch.setattr(cluster, "PATIENCE", 2)  # not before: a worker needs longer to start
        for node in [*two.worker_nodes]:
            two.remove_node(node)
        yield 2

    with pytest.raises(InputError, match=r"^test: the cluster has no CPU any more: add nodes"), cluster.connected():
        list(cluster.map_in_order(max, 0, items(), "test"))

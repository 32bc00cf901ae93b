"""The teacher's pass on a Ray cluster: two nodes of one CPU each on this machine."""

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import pytest
from helpers import changed
from keras import layers

from distillation import resume
from distillation.errors import InputError
from distillation.files import read_json
from distillation.inference import answers, cluster
from distillation.inference.answers import ANSWERS
from distillation.inference.forward import BATCH, Arrays
from distillation.networks.network import save_network
from distillation.networks.students import build_student
from distillation.params import Params
from stages import cache_teacher_logits

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
def workplace(records_directory: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A folder that looks to the stage like the repository: 20 views of 24 images, 64 answers a part and 32 a task."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(resume, "fingerprint", lambda stage: f"of {stage}")
    monkeypatch.setattr(answers, "PART", 2 * BATCH)
    monkeypatch.setattr(cache_teacher_logits, "PART", 2 * BATCH)
    monkeypatch.setattr(cluster, "TASK", BATCH)
    shutil.copytree(records_directory, "data/records")
    keras.utils.set_random_seed(0)
    teacher = build_student(changed(params.student, image_size=64, channels=[8, 16]), classes=3)
    for layer in teacher.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(keras.ops.ones(layer.gamma.shape))
    save_network(teacher, "models/teacher")
    images = sum(read_json("data/records/manifest.json")["counts"]["train"].values())
    budget, distill = changed(params.budget, answered=VIEWS * images), changed(params.distill, feature_channels=4)
    return params.model_copy(update={"budget": budget, "distill": distill})


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
    original = cluster.predictions

    def predictions(*arguments: object) -> Iterator[Arrays]:
        for number, batch in enumerate(original(*arguments)):
            if number == batches:
                action()
            yield batch

    monkeypatch.setattr(cluster, "predictions", predictions)


def complaint(params: Params) -> str:
    with pytest.raises(InputError) as caught:
        cache_teacher_logits.main(params)
    assert not ray.is_initialized()
    assert "\n" not in str(caught.value)
    assert not ANSWERS.exists()
    return str(caught.value)


def test_nodes_answer_as_this_machine_does(
    alone: dict[str, bytes], workplace: Params, two: Cluster, capsys: pytest.CaptureFixture
):
    cache_teacher_logits.main(workplace)
    assert contents(ANSWERS) == alone
    assert not ray.is_initialized()
    assert "warning" not in capsys.readouterr().err


def test_node_that_is_killed_costs_nothing(
    alone: dict[str, bytes], workplace: Params, two: Cluster, monkeypatch: pytest.MonkeyPatch
):
    victim = next(iter(two.worker_nodes))
    after(3, lambda: two.remove_node(victim, allow_graceful=False), monkeypatch)
    cache_teacher_logits.main(workplace)
    assert len(two.worker_nodes) == 1
    assert contents(ANSWERS) == alone


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


def test_cpus_of_other_kinds_are_named(
    alone: dict[str, bytes],
    workplace: Params,
    two: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    monkeypatch.setattr(cluster, "_kind", lambda: "another kind")  # of the driver alone
    cache_teacher_logits.main(workplace)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert "this machine: another kind; node" in line


def test_other_versions_are_named(workplace: Params, two: Cluster, monkeypatch: pytest.MonkeyPatch):
    has = cluster._versions()
    monkeypatch.setattr(cluster, "_versions", lambda: has | {"Python": "3.12.99"})
    assert f"has Python {has['Python']}, " in (line := complaint(workplace))
    assert "should have Python 3.12.99, " in line


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

"""The teacher's pass on the nodes of a Ray cluster: what this machine would answer, byte by byte on CPUs of its kind.

It is used where `RAY_ADDRESS` names a cluster. The driver, which is the stage's own process, reads the records, sends
them to the nodes through Ray's object store and gets the answers in their order: nodes need no folder in common, and no
copy of the project. Without a cluster Ray need not be installed.
"""

import functools
import itertools
import os
import platform
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf

import distillation
from distillation import cpu
from distillation.console import note, progress, warn
from distillation.data.records import Records
from distillation.errors import InputError, reason
from distillation.inference.answers import compact
from distillation.inference.forward import BATCH, Arrays, drawn, frozen, numbered
from distillation.inference.litert import Network
from distillation.params import Views

if TYPE_CHECKING:
    import ray

TASK = 16 * BATCH  # answers: seconds of work, so that sending costs little, and all nodes end at about the same time
AHEAD = 3  # tasks on their way for each CPU; this bounds memory
RETRIES = 8  # of a task whose worker or node dies
PATIENCE = 120  # seconds for one task to run on any CPU, of which a worker may still have to be started
INSTALL = "pip install -r requirements-cluster.txt"
ROUNDING = ("avx", "amx", "fma", "asimd", "sve", "sme", "bf16", "i8mm")  # instruction sets that may change it


def wanted() -> bool:
    """Whether the environment names a cluster."""
    return bool(os.environ.get("RAY_ADDRESS"))


@contextmanager
def connected() -> Iterator[None]:
    """Join the cluster that `RAY_ADDRESS` names; leave it in the end, whereupon Ray stops what still runs there.

    Raises `InputError` where that can't be done, no CPU comes free in time, or the cluster fails within the block.
    """
    address = os.environ["RAY_ADDRESS"]
    try:
        import ray
    except ImportError:
        raise InputError(f"RAY_ADDRESS is set, but Ray is not installed: {INSTALL}, or unset RAY_ADDRESS") from None
    _join(address)
    try:
        probe = ray.remote(num_cpus=1)(lambda: None).remote()
        if not ray.wait([probe], timeout=PATIENCE)[0]:
            free, there = (have.get("CPU", 0) for have in (ray.available_resources(), ray.cluster_resources()))
            raise InputError(
                f"RAY_ADDRESS = {address}: no CPU came free within {PATIENCE} s ({free:.0f} of {there:.0f} are free): "
                "add nodes, wait for what runs there, or unset RAY_ADDRESS"
            )
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise InputError(*error.cause.args) from None
        if isinstance(error.cause, ImportError):
            raise InputError(f"a node of the cluster lacks a library ({reason(error.cause)}): {INSTALL}") from None
        raise
    except ray.exceptions.RayError as error:
        raise InputError(f"the cluster at {address} failed ({reason(error)}): run it again to go on") from None
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    import ray

    # A process that computes for one CPU must not start a thread for each of the machine's. TensorFlow may use oneDNN,
    # and is silent, where it does so and is here.
    settings = {f"TF_NUM_{kind}_THREADS": "1" for kind in ("INTRAOP", "INTEROP")}
    as_here = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS", "KERAS_BACKEND")
    settings |= {name: os.environ[name] for name in as_here if name in os.environ}
    code = {"py_modules": [str(Path(distillation.__file__).parent)], "excludes": ["__pycache__"]}
    try:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if port.isdigit():  # Ray itself would try for a minute, and then end this process
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, log_to_driver=False, logging_level="ERROR", runtime_env=code | {"env_vars": settings})
    except (OSError, RuntimeError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise InputError(f"RAY_ADDRESS = {address}: the cluster cannot be joined ({problem})") from None


def predictions(
    network: keras.Model | bytes, records: Records, size: int, views: Views, count: int, first: int, label: str
) -> Iterator[Arrays]:
    """What `forward.predictions` gives of `view_images`, as it is stored; the nodes answer, a CPU a task.

    It works while `connected`. Where nodes die, Ray gives their tasks to others. Processors of several kinds, which
    round differently, are named in a warning.

    Args:
        network: as `forward_pass` takes it, for images of `size`.
        records, size, views, count, first: see `view_images`.
        label: what the progress bar says.

    Raises:
        InputError: where a node has other versions of what computes than this machine.
    """
    import ray

    examples = numbered(records, count, first)
    content, names = (network, None) if isinstance(network, bytes) else frozen(network)
    job = ray.put(_Job(content, names, records.manifest.image_size, size, views, _versions()))
    batches = itertools.chain.from_iterable(map(_batches, _in_order(job, examples.batch(TASK).prefetch(2))))
    note(f"{label}: on {_cpus()} CPUs of a Ray cluster")
    return progress(batches, -(-len(examples) // BATCH), label)


@dataclass(frozen=True)
class _Job:
    """What all tasks have in common; for `content` and `names` see `litert.Network`."""

    content: bytes
    names: dict[str, str] | None
    image_size: int
    size: int
    views: Views
    versions: dict[str, str]


def _in_order(job: "ray.ObjectRef", examples: tf.data.Dataset) -> Iterator[Arrays]:
    """The answers to each batch of `examples`, of which a few are on their way at a time."""
    import ray

    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_answer)
    batches = examples.as_numpy_iterator()
    waiting: deque[tuple[ray.ObjectRef, ray.ObjectRef]] = deque()
    kinds = {_kind(): "this machine"}
    while True:
        for serialised, numbers in itertools.islice(batches, max(0, AHEAD * _cpus() - len(waiting))):
            # It is held until the answers are here: a node that is lost may take answers with it.
            batch = ray.put((serialised.tolist(), numbers))
            waiting.append((batch, task.remote([job], batch)))
        if not waiting:
            return
        answers, kind, node = ray.get(waiting[0][1])
        waiting.popleft()
        if kind not in kinds:
            kinds[kind] = f"node {node}"
            found = "; ".join(f"{where}: {kind}" for kind, where in kinds.items())
            warn(f"CPUs of several kinds answer and round differently ({found}): dvc.lock will be that of no one kind")
        yield answers


def _cpus() -> int:
    """How many CPUs the cluster has now; nodes may come and go."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 0)))


def _batches(answers: Arrays) -> Iterator[Arrays]:
    for start in range(0, len(answers["logits"]), BATCH):
        yield {name: values[start : start + BATCH] for name, values in answers.items()}


def _answer(job: "list[ray.ObjectRef]", examples: tuple[list[bytes], np.ndarray]) -> tuple[Arrays, str, str]:
    """On a node: the answers to `examples` (serialised, and the numbers of their views), and who gives them.

    The reference to the job stands in a list, so that a process fetches the job once and not with every task.
    """
    import ray

    settings, network = _prepared(job[0])
    pairs = tf.data.Dataset.from_tensor_slices(examples)
    batches = drawn(pairs, settings.image_size, settings.size, settings.views).prefetch(1)
    answers = [compact(network(batch)) for batch in batches.as_numpy_iterator()]
    joined = {name: np.concatenate([batch[name] for batch in answers]) for name in answers[0]}
    return joined, _kind(), ray.util.get_node_ip_address()


@functools.lru_cache(maxsize=1)
def _prepared(job: "ray.ObjectRef") -> tuple[_Job, Network]:
    import ray

    settings: _Job = ray.get(job)
    if (here := _versions()) != settings.versions:
        node = ray.util.get_node_ip_address()
        raise InputError(f"node {node} of the cluster has {_listed(here)}, should have {_listed(settings.versions)}")
    return settings, Network(settings.content, settings.names)


def _versions() -> dict[str, str]:
    """Of all that computes an answer. The project's own code comes with the task."""
    litert = "ai-edge-litert"
    return {"Python": platform.python_version(), "tensorflow": tf.__version__, litert: version(litert)}


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _kind() -> str:
    """The instruction sets of this machine's CPU on which rounding depends."""
    return " ".join(sorted(name for name in cpu.instructions() or () if name.startswith(ROUNDING))) or cpu.name()

"""Work on the nodes of a Ray cluster: `map_in_order`, where `RAY_ADDRESS` names one.

The driver, which is the stage's own process, sends items to the nodes through Ray's object store, and gets the results
in their order: nodes need no folder in common, and no copy of the project. Without a cluster Ray need not be installed.
"""

import functools
import itertools
import os
import platform
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import tensorflow as tf

import distillation
from distillation import cpu
from distillation.console import note, warn
from distillation.errors import InputError, reason

if TYPE_CHECKING:
    import ray

Shared, Item, Result = TypeVar("Shared"), TypeVar("Item"), TypeVar("Result")

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
        if isinstance(error.cause, (OSError, MemoryError)):  # `error` is one, too, but its text hides the reason
            raise InputError(f"a node of the cluster failed ({reason(error.cause)}): run it again to go on") from None
        raise
    except ray.exceptions.RayError as error:
        raise InputError(f"the cluster at {address} failed ({reason(error)}): run it again to go on") from None
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    import ray

    # A process that computes for one CPU must not start a thread for each of the machine's. Whether TensorFlow uses
    # oneDNN, and what it logs, is as in this process.
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


def map_in_order(
    function: Callable[[Shared, Item], Result], shared: Shared, items: Iterable[Item], label: str
) -> Iterator[Result]:
    """`function(shared, item)` for each of `items`, a CPU and some seconds of work each, in their order.

    It works while `connected`, and takes from `items` only a few ahead of what has been asked for. Where nodes die, Ray
    gives their tasks to others. Processors of several kinds, which round differently, are named in a warning.

    Args:
        function: of a module of `distillation`.
        shared: what all tasks have in common; a process of a node fetches it once.
        items: what goes through Ray's object store, each once.
        label: what the line says that names the cluster.

    Raises:
        InputError: where a node has other versions of what computes than this machine, or all nodes are gone.
    """
    import ray

    job = ray.put((shared, _versions()))
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_work)
    items = iter(items)
    waiting: deque[tuple[ray.ObjectRef, ray.ObjectRef]] = deque()
    kinds = {_kind(): "this machine"}
    note(f"{label}: on {_cpus()} CPUs of a Ray cluster")
    while True:
        for item in itertools.islice(items, max(0, AHEAD * _cpus() - len(waiting))):
            # It is held until the result is here: a node that is lost may take results with it.
            sent = ray.put(item)
            waiting.append((sent, task.remote(function, [job], sent)))
        if not waiting:
            return
        while not ray.wait([waiting[0][1]], timeout=PATIENCE)[0]:
            if not ray.cluster_resources().get("CPU"):
                raise InputError(f"{label}: the cluster has no CPU any more: add nodes, and run it again to go on")
        result, kind, node = ray.get(waiting[0][1])
        waiting.popleft()
        if kind not in kinds:
            kinds[kind] = f"node {node}"
            found = "; ".join(f"{where}: {kind}" for kind, where in kinds.items())
            warn(f"CPUs of several kinds work and round differently ({found}): no single kind gives the same dvc.lock")
        yield result


def _work(function: Callable, job: "list[ray.ObjectRef]", item: object) -> tuple[object, str, str]:
    """On a node: the result for `item`, and who gives it.

    The reference to the job stands in a list, so that a process fetches the job once and not with every task.
    """
    import ray

    return function(_fetched(job[0]), item), _kind(), ray.util.get_node_ip_address()


@functools.lru_cache(maxsize=1)
def _fetched(reference: "ray.ObjectRef") -> object:
    import ray

    shared, versions = ray.get(reference)
    if (here := _versions()) != versions:
        node = ray.util.get_node_ip_address()
        raise InputError(f"node {node} of the cluster has {_listed(here)}, should have {_listed(versions)}")
    return shared


def _cpus() -> int:
    """How many CPUs the cluster has now; nodes may come and go."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 0)))


def _versions() -> dict[str, str]:
    """Of all that computes a result. The project's own code comes with the task."""
    packages = {name: version(name) for name in ("ai-edge-litert", "pillow")}
    return {"Python": platform.python_version(), "tensorflow": tf.__version__, **packages}


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _kind() -> str:
    """The instruction sets of this machine's CPU on which rounding depends."""
    return " ".join(sorted(name for name in cpu.instructions() or () if name.startswith(ROUNDING))) or cpu.name()

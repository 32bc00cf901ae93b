"""Mapping in parallel keeps the order; what a node of a cluster gets at a time is bounded."""

import itertools
import os
import threading
import time

import pytest

from distillation.parallel import AHEAD, map_in_order
from distillation.sources.open import Original
from distillation.sources.spool import TASK, TASK_BYTES, _tasks


def test_results_come_in_order_however_long_each_takes():
    def slow(number: int) -> int:
        time.sleep(0.01 * (number % 3 == 0))
        return number**2

    assert list(map_in_order(slow, range(100))) == [number**2 for number in range(100)]
    assert list(map_in_order(slow, [])) == []


def test_items_are_taken_as_they_are_needed():
    items = itertools.count()
    results = map_in_order(str, items)
    assert next(results) == "0"
    assert next(items) <= AHEAD * os.cpu_count()
    results.close()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux keeps a process to some cores")
def test_threads_are_as_many_as_the_cores_that_the_process_may_use():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert len(set(map_in_order(lambda _: threading.get_ident(), range(50)))) == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_error_comes_in_the_place_of_its_result():
    results = map_in_order(lambda number: 1 // number, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize(
    ("size", "of_each"), [(1000, [TASK, TASK, 2]), (TASK_BYTES // 50, [51, 51, 28]), (TASK_BYTES, [1] * 130)]
)
def test_task_of_a_node_is_small_in_images_and_bytes(size: int, of_each: list[int]):
    encoded = bytes(size)
    images = [Original(encoded, 0, str(number)) for number in range(2 * TASK + 2)]
    tasks = [*_tasks(iter(images))]
    assert [len(task) for task in tasks] == of_each
    assert [*itertools.chain(*tasks)] == images

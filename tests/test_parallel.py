"""Mapping in parallel keeps the order."""

import itertools
import os
import time

import pytest

from distillation.parallel import AHEAD, map_in_order


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


def test_error_comes_in_the_place_of_its_result():
    results = map_in_order(lambda number: 1 // number, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)

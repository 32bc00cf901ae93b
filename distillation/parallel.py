"""Mapping a function over many items in parallel."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

AHEAD = 4  # items on their way, by thread: some are photographs of 60 MB
Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`map(function, items)`, on a thread for each core.

    Unlike `Executor.map`, it takes only a few items ahead of the results asked for, so memory stays bounded.
    """
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        items, waiting = iter(items), deque()
        while True:
            ahead = itertools.islice(items, AHEAD * threads - len(waiting))
            waiting.extend(pool.submit(function, item) for item in ahead)
            if not waiting:
                return
            yield waiting.popleft().result()

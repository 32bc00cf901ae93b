"""Mapping a function over many items in parallel."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from joblib import cpu_count

AHEAD = 4  # items on their way, by thread: some are photographs of 60 MB
Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`map(function, items)`, on a thread for each core that this process may use.

    Unlike `Executor.map`, it takes only a few items ahead of the results asked for, so memory stays bounded.
    """
    threads = cpu_count()
    with ThreadPoolExecutor(threads) as pool:
        items, waiting = iter(items), deque()
        while True:
            ahead = itertools.islice(items, AHEAD * threads - len(waiting))
            waiting.extend(pool.submit(function, item) for item in ahead)
            if not waiting:
                return
            yield waiting.popleft().result()

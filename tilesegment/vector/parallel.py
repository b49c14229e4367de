"""Work on many geometries by several threads: shapely and numpy let go of the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
S = TypeVar("S")
# Enough to keep the cost of a call small, few enough to share out evenly.
_CHUNK = 256


def chunks(count: int) -> list[slice]:
    """Slices that cover `count` items."""
    return [slice(begin, begin + _CHUNK) for begin in range(0, count, _CHUNK)]


def in_threads(function: Callable[[S], T], items: Iterable[S], most: int = 64) -> list[T]:
    """The results of a function that depends on nothing else, in the order of the items. most: threads."""
    items = list(items)
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(len(items), os.cpu_count() or 1, most)) as pool:
        return list(pool.map(function, items))

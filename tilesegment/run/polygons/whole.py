"""The polygons of a whole scene, from those of its blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tilesegment.run.block.file import read_fragments
from tilesegment.run.polygons.areas import streams_of
from tilesegment.run.polygons.making import Making
from tilesegment.tiling.plan import Block, Plan
from tilesegment.vector.apart import Candidates
from tilesegment.vector.seams import Features, join
from tilesegment.vector.trace import Fragments, bands_of

# Polygons handed on together, at least: neighbours are looked at and written many at a time.
_BATCH = 2048


def whole_features(
    plan: Plan, path: Callable[[Block], Path], making: Making, connectivity: int = 4
) -> Iterator[Features]:
    """The polygons of all blocks in batches, in the order of their first pixel. path: the file of a
    block."""
    # Bands of blocks beside each other form a row.
    rows: dict[int, list[tuple[Block, int]]] = {}
    for block in plan.blocks:
        for band, windows in enumerate(bands_of(plan, block.window, making.shared_outlines)):
            rows.setdefault(windows[0].row_end, []).append((block, band))
    groups = [(keys, end * plan.width) for end, keys in sorted(rows.items())]

    def load(key: tuple[Block, int]) -> Fragments:
        block, band = key
        return read_fragments(path(block), band)

    return making.settled(making.made(join(load, groups, connectivity, making.shared_outlines)))


def made_features(plan: Plan, path: Callable[[str], Path], making: Making) -> Iterator[Features]:
    """As `whole_features`, where the polygons of all areas are made (see `areas`). path: the file of an
    area by its name."""
    return making.settled(in_order(streams_of(plan, path)))


def in_order(streams: Sequence[Iterator[Candidates]]) -> Iterator[Candidates]:
    """Several streams of polygons as one, each in ascending order of the first pixel. Of each stream one
    batch is in memory at a time, and what is handed out next."""
    heads: dict[int, Candidates] = {}
    left = dict(enumerate(streams))
    ready: list[Candidates] = []
    while left or heads:
        for number in [number for number in left if number not in heads]:
            batch = next(left[number], None)
            if batch is None:
                del left[number]
            elif len(batch):
                heads[number] = batch
        if any(number not in heads for number in left):
            continue
        # What begins behind the last one of a stream may begin behind its next one.
        limit = min((_begins(heads[number])[-1] for number in left), default=None)
        for number, batch in list(heads.items()):
            begins = _begins(batch)
            cut = len(batch) if limit is None else int(np.searchsorted(begins, limit, side="right"))
            ready.append(batch[np.arange(cut)])
            heads[number] = batch[np.arange(cut, len(batch))]
            if cut == len(batch):
                del heads[number]
        if ready and (sum(map(len, ready)) >= _BATCH or not (left or heads)):
            together = Candidates.concatenate(ready)
            yield together[np.argsort(_begins(together), kind="stable")]
            ready = []


def _begins(candidates: Candidates) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return candidates.features.first_pixel

"""Joining what block and band edges cut: exact, in whole pixel coordinates.

Two passes over the fragments. The first sees only their runs along window borders: where runs of equal
class on the two sides of a line overlap, their fragments are one region (union-find). The second hands
out the regions in the order of their first pixel, row of blocks by row of blocks, with only those that
cross a border held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.vector.parallel import chunks, in_threads
from tilesegment.vector.rings import Geometries, IntArray, canonical
from tilesegment.vector.trace import Fragments


@dataclass(frozen=True)
class Features:
    """Whole regions: geometry in pixel coordinates (shapely), class, pixel count, sum of probabilities and
    first pixel of each, (n,)."""

    geometry: Geometries
    value: IntArray
    pixels: IntArray
    total: IntArray
    first: IntArray

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, index: NDArray[np.generic] | slice) -> Features:
        return Features(
            self.geometry[index],
            self.value[index],
            self.pixels[index],
            self.total[index],
            self.first[index],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Features]) -> Features:
        """All of them in one value, in order."""
        return cls(
            np.concatenate([p.geometry for p in parts]),
            np.concatenate([p.value for p in parts]),
            np.concatenate([p.pixels for p in parts]),
            np.concatenate([p.total for p in parts]),
            np.concatenate([p.first for p in parts]),
        )


def join(
    load: Callable[[int], Fragments],
    groups: Sequence[tuple[Sequence[int], int]],
    connectivity: int = 4,
    shared_outlines: bool = False,
) -> Iterator[Features]:
    """Whole regions from fragments, in batches, in ascending order of their first pixel.

    load: the fragments of a block by its number, called up to three times for each.
    groups: rows of blocks from top to bottom, each with the linear index at which the next row starts.
    connectivity: 4, or 8 to make one multipolygon of regions that touch at a corner.
    shared_outlines: the fragments were simplified together, and keep the vertices of their neighbours.
    """
    numbers = [number for group, _ in groups for number in group]
    sizes, runs, values, corners = _first_pass(load, numbers, connectivity)
    starts = dict(zip(numbers, np.cumsum([0, *sizes])[:-1].tolist(), strict=True))
    region = _regions(sum(sizes), runs, values, corners, connectivity)
    if shared_outlines:
        load = _noded(load, runs)
    shared = np.bincount(region, minlength=len(region))[region] > 1
    joined = _joined(load, numbers, starts, region, shared, connectivity, shared_outlines)
    for group, end in groups:
        ready = joined.first < end
        parts = [joined[ready]]
        joined = joined[~ready]
        for number in group:
            fragments = load(number)
            alone = ~shared[starts[number] : starts[number] + len(fragments)]
            parts.append(_single(fragments, alone, connectivity, shared_outlines))
        batch = Features.concatenate(parts)
        yield batch[np.argsort(batch.first, kind="stable")]


def _first_pass(
    load: Callable[[int], Fragments], numbers: Sequence[int], connectivity: int
) -> tuple[list[int], IntArray, IntArray, list[tuple[int, int]]]:
    sizes: list[int] = []
    runs: list[IntArray] = [np.empty((0, 6), np.int64)]
    values: list[IntArray] = [np.empty(0, np.int64)]
    corners: list[tuple[int, int]] = []
    for number in numbers:
        fragments = load(number)
        count = sum(sizes)
        sizes.append(len(fragments))
        runs.append(fragments.renumbered_runs(count))
        values.append(fragments.value)
        if connectivity == 8:
            corners.extend((a + count, b + count) for a, b in _corner_contacts(fragments))
    return sizes, np.concatenate(runs), np.concatenate(values), corners


def _regions(
    count: int,
    runs: IntArray,
    values: IntArray,
    corners: list[tuple[int, int]],
    connectivity: int,
) -> IntArray:
    """The region of each fragment, named by its smallest fragment."""
    parent = np.arange(count)

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = int(parent[node])
        return node

    for one, other in _pairs(_contacts(runs, connectivity), corners):
        if values[one] == values[other]:
            a, b = root(one), root(other)
            parent[max(a, b)] = min(a, b)
    # Parents are never larger, so one sweep of pointer jumping until nothing moves is enough.
    while True:
        jumped = parent[parent]
        if np.array_equal(jumped, parent):
            return parent
        parent = jumped


def _pairs(contacts: IntArray, corners: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Pairs of fragments in contact, from both sources."""
    yield from map(tuple, contacts.tolist())
    yield from corners


def _contacts(runs: IntArray, connectivity: int) -> IntArray:
    """Pairs of fragments whose runs face each other across a line, (n, 2). With connectivity 8, runs
    that only touch end to end count as well."""
    touch = 1 if connectivity == 8 else 0
    found = [np.empty((0, 2), np.int64)]
    keys = runs[:, 0] * (runs[:, 1].max(initial=0) + 1) + runs[:, 1]
    order = np.lexsort((runs[:, 3], keys))
    runs, keys = runs[order], keys[order]
    bounds = np.flatnonzero(np.diff(keys, prepend=-1, append=-1))
    for begin, end in pairwise(bounds.tolist()):
        line = runs[begin:end]
        before, after = line[line[:, 2] == 0], line[line[:, 2] == 1]
        if not len(before) or not len(after):
            continue
        # Runs of one side are disjoint and sorted, so those that overlap [from, to) are a slice.
        low = np.searchsorted(after[:, 4], before[:, 3] - touch, side="right")
        high = np.searchsorted(after[:, 3], before[:, 4] + touch, side="left")
        counts = np.maximum(0, high - low)
        left = np.repeat(np.arange(len(before)), counts)
        offset = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
        right = low[left] + offset
        found.append(np.column_stack([before[left, 5], after[right, 5]]))
    return np.concatenate(found)


def _corner_contacts(fragments: Fragments) -> list[tuple[int, int]]:
    """Pairs of fragments of one class that share a vertex: within a traced window these touch at a
    corner; across windows of one block they are joined by their runs as well, which does no harm."""
    outlines = fragments.outlines
    owner = outlines.part_of_ring()[outlines.ring_of_vertex()]
    table = np.column_stack([fragments.value[owner], outlines.coords, owner])
    table = table[np.lexsort(table.T[::-1])]
    same = (table[1:, :3] == table[:-1, :3]).all(axis=1) & (table[1:, 3] != table[:-1, 3])
    return [(int(a), int(b)) for a, b in zip(table[:-1, 3][same], table[1:, 3][same], strict=True)]


def _noded(load: Callable[[int], Fragments], runs: IntArray) -> Callable[[int], Fragments]:
    """Fragments with a vertex wherever an outline on the other side of a border line begins or ends, so
    that neighbours keep sharing every vertex after coordinates are rounded."""
    axis, line = np.repeat(runs[:, 0], 2), np.repeat(runs[:, 1], 2)
    along = runs[:, 3:5].ravel()
    on_vertical = np.column_stack([line, along])[axis == 1]
    on_horizontal = np.column_stack([along, line])[axis == 0]

    def noded(number: int) -> Fragments:
        fragments = load(number)
        outlines = fragments.outlines.with_vertices(on_vertical, on_horizontal)
        return replace(fragments, coords=outlines.coords, rings=outlines.rings)

    return noded


def _joined(
    load: Callable[[int], Fragments],
    numbers: Sequence[int],
    starts: dict[int, int],
    region: IntArray,
    shared: NDArray[np.bool_],
    connectivity: int,
    shared_outlines: bool,
) -> Features:
    """The regions that consist of several fragments, sorted by first pixel."""
    parts: list[Features] = []
    names: list[IntArray] = [np.empty(0, np.int64)]
    for number in numbers:
        fragments = load(number)
        here = slice(starts[number], starts[number] + len(fragments))
        parts.append(_single(fragments, shared[here], 4, shared_outlines))
        names.append(region[here][shared[here]])
    pieces, name = Features.concatenate(parts), np.concatenate(names)
    order = np.argsort(name, kind="stable")
    pieces, name = pieces[order], name[order]
    begin = np.flatnonzero(np.diff(name, prepend=-1))
    if not len(begin):
        return pieces
    groups = np.split(pieces.geometry, begin[1:])
    united = np.array(in_threads(shapely.union_all, groups))
    united = _canonical(_promoted(united, connectivity), shared_outlines)
    result = Features(
        united,
        pieces.value[begin],
        np.add.reduceat(pieces.pixels, begin),
        np.add.reduceat(pieces.total, begin),
        np.minimum.reduceat(pieces.first, begin),
    )
    return result[np.argsort(result.first, kind="stable")]


def _single(
    fragments: Fragments, wanted: NDArray[np.bool_], connectivity: int, shared_outlines: bool
) -> Features:
    geometry = _canonical(fragments.outlines.geometries()[wanted], shared_outlines)
    return Features(
        _promoted(geometry, connectivity),
        fragments.value[wanted],
        fragments.pixels[wanted],
        fragments.total[wanted],
        fragments.first[wanted],
    )


def _canonical(geometry: Geometries, keep_vertices: bool) -> Geometries:
    parts = in_threads(lambda part: canonical(geometry[part], keep_vertices), chunks(len(geometry)))
    return np.concatenate([geometry[:0], *parts])


def _promoted(geometry: Geometries, connectivity: int) -> Geometries:
    """With connectivity 8 all are multipolygons: a layer has one geometry type."""
    if connectivity == 4 or not len(geometry):
        return geometry
    return np.array(
        [g if g.geom_type == "MultiPolygon" else shapely.MultiPolygon([g]) for g in geometry], object
    )

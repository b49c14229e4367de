"""Joining what block and band edges cut: exact, in whole pixel coordinates.

Two passes over the fragments. The first sees only their runs along window borders: where runs of equal
class on the two sides of a line overlap, their fragments are one region (union-find). The second goes
from top to bottom, joins a region as soon as its last fragment is there, and hands out regions in the
order of their first pixel, so that only those which are still open, and those behind them in that order,
are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.vector.parallel import chunks, in_threads
from tilesegment.vector.rings import (
    Geometries,
    IntArray,
    Ragged,
    canonical,
    smallest_of,
    valid_polygons,
)
from tilesegment.vector.trace import Fragments, no_fragments
from tilesegment.vector.union import canonical_outlines, united


@dataclass(frozen=True)
class Features:
    """Whole regions: geometry in pixel coordinates (shapely), class, pixel count, sum of probabilities and
    first pixel of each, (n,).

    plain, regular: outlines that were simplified and regularised together with those of neighbours, None
    for features without any; group: the same for parts of one region, whose walls are shared;
    state, deviation: what became of regularised ones (see `regularize`).
    """

    geometry: Geometries
    value: IntArray
    pixels: IntArray
    probability_sum: IntArray
    first_pixel: IntArray
    plain: Geometries | None = None
    regular: Geometries | None = None
    group: IntArray | None = None
    state: NDArray[np.uint8] | None = None
    deviation: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, index: NDArray[np.generic] | slice) -> Features:
        columns: Any = [None if column is None else column[index] for column in vars(self).values()]
        return Features(*columns)

    @classmethod
    def none(cls) -> Features:
        """No regions."""
        numbers = np.empty(0, np.int64)
        return cls(np.empty(0, object), numbers, numbers, numbers, numbers)

    @classmethod
    def concatenate(cls, parts: Sequence[Features]) -> Features:
        """All of them in one value, in order."""
        columns: Any = zip(*(vars(part).values() for part in parts), strict=True)
        joined: Any = [None if column[0] is None else np.concatenate(column) for column in columns]
        return cls(*joined)


Key = TypeVar("Key")
# Features handed out together, at least: they are cleaned in parallel and written in one go.
_BATCH = 4096


def join(
    load: Callable[[Key], Fragments],
    groups: Sequence[tuple[Sequence[Key], int]],
    connectivity: int = 4,
    shared_outlines: bool = False,
) -> Iterator[Features]:
    """Whole regions from fragments, in batches, in ascending order of their first pixel.

    load: the fragments of a traced window by its key, called twice for each.
    groups: rows of windows from top to bottom, each with the linear index at which the next row starts.
    connectivity: 4, or 8 to make one multipolygon of regions that touch at a corner.
    shared_outlines: the fragments were simplified together, and keep the vertices of their neighbours.
    """
    runs, values, corners = _first_pass(load, [key for group, _ in groups for key in group], connectivity)
    region = _regions(len(values), runs, values, corners, connectivity)
    vertical = runs[:, 0] == 1
    seams = np.unique(runs[vertical, 1]), np.unique(runs[~vertical, 1])
    if shared_outlines:
        load = _noded(load, runs)
    # Fragments of each region that were not met yet.
    left = np.bincount(region, minlength=len(region))
    shared = left[region] > 1
    pieces, names, start = no_fragments(), np.empty(0, np.int64), 0
    waiting = Features.none()
    for number, (group, end) in enumerate(groups):
        found, fresh, fresh_names = [waiting], [pieces], [names]
        for key in group:
            fragments = load(key)
            here = slice(start, start + len(fragments))
            start = here.stop
            mine, of = shared[here], region[here]
            found.append(_features(fragments.only(~mine), connectivity, shared_outlines))
            fresh.append(fragments.only(mine))
            fresh_names.append(of[mine])
            np.subtract.at(left, of, 1)
        pieces, names = Fragments.concatenate(fresh), np.concatenate(fresh_names)
        whole = left[names] == 0
        found.append(_united(pieces.only(whole), names[whole], seams, connectivity, shared_outlines))
        pieces, names = pieces.only(~whole), names[~whole]
        waiting = Features.concatenate(found)
        waiting = waiting[np.argsort(waiting.first_pixel, kind="stable")]
        # A region that is still open goes before all that begin behind it.
        ready = int(np.searchsorted(waiting.first_pixel, min(end, pieces.first_pixel.min(initial=end))))
        if ready >= _BATCH or number == len(groups) - 1:
            yield waiting[:ready]
            waiting = waiting[ready:]


def reaching(
    load: Callable[[Key], Fragments], keys: Sequence[Key], lines: tuple[IntArray, IntArray]
) -> list[NDArray[np.bool_]]:
    """Which fragments, by key, are of regions that have an edge on one of some lines.

    load: the 4-connected fragments of traced windows; lines: x of the vertical, y of the horizontal ones.
    """
    runs, values, corners = _first_pass(load, keys, 4)
    region = _regions(len(values), runs, values, corners, 4)
    vertical = runs[:, 0] == 1
    hit = np.where(vertical, np.isin(runs[:, 1], lines[0]), np.isin(runs[:, 1], lines[1]))
    found = np.zeros(len(values), np.bool_)
    found[region[runs[hit, 5]]] = True
    sizes = [len(load(key)) for key in keys]
    return np.split(found[region], np.cumsum(sizes)[:-1])


def _first_pass(
    load: Callable[[Key], Fragments], keys: Sequence[Key], connectivity: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Runs of all fragments, numbered through, the class of each, and pairs that touch at a corner."""
    runs: list[IntArray] = [np.empty((0, 6), np.int64)]
    values: list[IntArray] = [np.empty(0, np.int64)]
    corners: list[IntArray] = [np.empty((0, 2), np.int64)]
    count = 0
    for key in keys:
        fragments = load(key)
        runs.append(fragments.renumbered_runs(count))
        values.append(fragments.value)
        if connectivity == 8:
            corners.append(_corner_contacts(fragments) + count)
        count += len(fragments)
    return np.concatenate(runs), np.concatenate(values), np.concatenate(corners)


def _regions(
    count: int,
    runs: IntArray,
    values: IntArray,
    corners: IntArray,
    connectivity: int,
) -> IntArray:
    """The region of each fragment, named by its smallest fragment."""
    pairs = np.concatenate([_contacts(runs, connectivity), corners])
    return smallest_of(count, pairs[values[pairs[:, 0]] == values[pairs[:, 1]]])


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


def _corner_contacts(fragments: Fragments) -> IntArray:
    """Pairs of fragments of one class that share a vertex, (n, 2): within a traced window these touch at a
    corner; across windows of one block they are joined by their runs as well, which does no harm."""
    outlines = fragments.outlines
    owner = outlines.part_of_ring()[outlines.ring_of_vertex()]
    table = np.column_stack([fragments.value[owner], outlines.coords, owner])
    table = table[np.lexsort(table.T[::-1])]
    same = (table[1:, :3] == table[:-1, :3]).all(axis=1) & (table[1:, 3] != table[:-1, 3])
    return np.column_stack([table[:-1, 3][same], table[1:, 3][same]])


def _noded(load: Callable[[Key], Fragments], runs: IntArray) -> Callable[[Key], Fragments]:
    """Fragments with a vertex wherever an outline on the other side of a border line begins or ends, so
    that neighbours keep sharing every vertex after coordinates are rounded."""
    axis, line = np.repeat(runs[:, 0], 2), np.repeat(runs[:, 1], 2)
    along = runs[:, 3:5].ravel()
    on_vertical = np.column_stack([line, along])[axis == 1]
    on_horizontal = np.column_stack([along, line])[axis == 0]

    def noded(key: Key) -> Fragments:
        fragments = load(key)
        outlines = fragments.outlines.with_vertices(on_vertical, on_horizontal)
        return replace(fragments, coords=outlines.coords, rings=outlines.rings)

    return noded


def _united(
    pieces: Fragments,
    name: IntArray,
    seams: tuple[IntArray, IntArray],
    connectivity: int,
    shared_outlines: bool,
) -> Features:
    """The regions that consist of several fragments. name: the region of each; seams: see `united`."""
    order = np.argsort(name, kind="stable")
    begin = np.flatnonzero(np.diff(name[order], prepend=-1))
    if not len(begin):
        return Features.none()
    if connectivity == 4 and not shared_outlines:
        geometry = _in_chunks(canonical_outlines, united(pieces.outlines, name, seams))
    else:
        geometry = _in_chunks(_valid_outlines, pieces.outlines)[order]
        geometry = np.array(in_threads(shapely.union_all, np.split(geometry, begin[1:])))
        geometry = canonical(_promoted(geometry, connectivity), shared_outlines)
    return Features(
        geometry,
        pieces.value[order][begin],
        np.add.reduceat(pieces.pixels[order], begin),
        np.add.reduceat(pieces.probability_sum[order], begin),
        np.minimum.reduceat(pieces.first_pixel[order], begin),
    )


def _features(fragments: Fragments, connectivity: int, shared_outlines: bool) -> Features:
    """Fragments that are whole regions."""
    outlines = _in_chunks(_kept_outlines if shared_outlines else canonical_outlines, fragments.outlines)
    return Features(
        _promoted(outlines, connectivity),
        fragments.value,
        fragments.pixels,
        fragments.probability_sum,
        fragments.first_pixel,
    )


def _valid_outlines(outlines: Ragged) -> Geometries:
    return valid_polygons(outlines.geometries())


def _kept_outlines(outlines: Ragged) -> Geometries:
    return canonical(outlines.geometries(), keep_vertices=True)


def _in_chunks(function: Callable[[Ragged], Geometries], outlines: Ragged) -> Geometries:
    """A function of outlines, by several threads where there are many."""
    count = len(outlines.parts) - 1
    index = np.arange(count)
    slices = chunks(count)
    if len(slices) < 2:
        return function(outlines)
    parts = in_threads(
        lambda s: function(outlines.with_parts((index >= s.start) & (index < s.stop))), slices
    )
    return np.concatenate(parts)


def _promoted(geometry: Geometries, connectivity: int) -> Geometries:
    """With connectivity 8 all are multipolygons: a layer has one geometry type."""
    if connectivity == 4 or not len(geometry):
        return geometry
    return np.array(
        [g if g.geom_type == "MultiPolygon" else shapely.MultiPolygon([g]) for g in geometry], object
    )

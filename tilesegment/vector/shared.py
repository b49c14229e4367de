"""Shared walls: the parts of one region, regular together.

Regular arcs are of walls that are fitted to each arc of a row, once for both of its sides; walls that go
on straight through a node become one, so that the front of a row of houses is straight (see `joints`). Arcs
of a building that does not pass the gate stay as they were simplified, and nodes where nothing is regular
stay where they were.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.vector.arcs import Arcs, contracted
from tilesegment.vector.edges import FloatArray, directions_of, shifts_of
from tilesegment.vector.gate import DEVIATION, State, states
from tilesegment.vector.joints import NOT_OF_IT, ONE_WALL, End, joint, united
from tilesegment.vector.plane import in_metres, turned
from tilesegment.vector.regularize import PIXELS, SCALES, Regularized, Rules, fit_of, rectangles
from tilesegment.vector.rings import Geometries, offsets_of
from tilesegment.vector.row import Row
from tilesegment.vector.walls import Chains, crossings, fit_walls

# A building whose direction differs by more from that of the row keeps its own, where it has one.
_OWN_DIRECTION = np.radians(6.0)
_LEAST_STRENGTH = 0.35
_NONE = np.empty((0, 2))


def regularize_row(row: Row, rules: Rules) -> Regularized:
    """The parts of a row as regular polygons, where that is possible, else as they are simplified."""
    count, plain = len(row.exact), row.simplified()
    best = Regularized(plain, np.full(count, State.SHARED, np.uint8), np.zeros(count))
    fitting = _Fitting.of(row, rules)
    for scale in SCALES:
        found = _passed(fitting, scale, plain)
        if (found.state == State.YES).sum() > (best.state == State.YES).sum():
            best = found
        if (best.state == State.YES).all():
            break
    return best


def _askew(own: FloatArray, strength: FloatArray, direction: float) -> FloatArray:
    """The angle of each part to a row's direction, 0 for those that follow it."""
    off = (own - direction + np.pi / 4) % (np.pi / 2) - np.pi / 4
    return np.where((np.abs(off) > _OWN_DIRECTION) & (strength > _LEAST_STRENGTH), off, 0.0)


@dataclass(frozen=True)
class _Drawing:
    """lines: of each arc, from node to node; nodes: (k, 2)."""

    lines: list[FloatArray]
    nodes: FloatArray


@dataclass(frozen=True)
class _Fitting:
    """A row in metres, in its own axes.

    arcs: the short ones taken for points; points: (e, 2) of unit edges, where the probability crosses the
    threshold; nodes: (k, 2); axis: (n,) angle of each part to the row; direction: of the row; kept, ends,
    traced: for each arc the simplified corners, its ends, and all of its corners with them.
    """

    row: Row
    rules: Rules
    arcs: Arcs
    points: FloatArray
    nodes: FloatArray
    axis: FloatArray
    direction: float
    kept: list[FloatArray]
    ends: list[FloatArray]
    traced: list[FloatArray]

    @classmethod
    def of(cls, row: Row, rules: Rules) -> _Fitting:
        """In the direction of most walls."""
        edges, metric, side = row.edges, row.metric, row.side
        polygon = np.repeat(np.arange(len(row.exact)), np.diff(row.parts))
        shortest = fit_of(
            rules, side * np.sqrt(shapely.area(row.exact)), np.array(side), 1.0
        ).shortest.min()
        arcs = contracted(row.arcs, float(shortest) / side)
        moved = edges.middle + edges.outward * shifts_of(edges, rules.read, rules.threshold)[:, None]
        points = moved @ metric.T
        (direction,), _ = directions_of(points, edges.begins, np.zeros_like(polygon), 1)
        own, strength = directions_of(points, edges.begins, polygon, len(row.exact))
        axis = _askew(own, strength, direction)
        if axis.any() and not axis.all():
            # Those that stand askew have no say in how the others stand.
            share = np.where(axis == 0, strength * shapely.length(row.exact), 0.0)
            direction = np.angle((share * np.exp(4j * own)).sum()) / 4
            axis = _askew(own, strength, direction)

        def local(places: FloatArray) -> FloatArray:
            return turned(places @ metric.T, -direction)

        corners = local(row.arcs.nodes)
        return cls(
            row,
            rules,
            arcs,
            turned(points, -direction),
            local(arcs.nodes),
            axis,
            float(direction),
            [local(places) for places in row.kept],
            [corners[[arc.start, arc.end]] if not arc.closed else _NONE for arc in row.arcs.arcs],
            [local(row.plain_line(number, inner)) for number, inner in enumerate(row.corners)],
        )

    def drawn(self, scale: float) -> _Drawing:
        """Each arc along fitted walls. scale: of all lengths that walls are told by."""
        arcs, side = self.arcs.arcs, self.row.side
        long = [number for number, arc in enumerate(arcs) if not arc.point]
        chains = self._chains(long)
        each = np.split(chains.points, chains.begins[1:-1])
        size = np.full(len(long), side * float(np.sqrt(shapely.area(self.row.exact).mean())))
        for k in np.flatnonzero(chains.closed).tolist():
            x, y = each[k].T
            size[k] = min(size[k], float(np.sqrt(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)))
        fit = fit_of(self.rules, size, np.full(len(long), side), scale)
        walls = fit_walls(chains, fit)
        meetings: list[list[End]] = [[] for _ in self.nodes]
        for k, number in enumerate(long):
            arc, inside = arcs[number], each[k][len(each[k]) // 2]
            if not arc.closed:
                meetings[arc.start].append(End(number, 0, int(walls.begins[k]), inside))
                meetings[arc.end].append(End(number, 1, int(walls.begins[k + 1]) - 1, inside))
        tolerance = float(fit.tolerance.mean())
        walls = united(walls, meetings, ONE_WALL * tolerance)
        nodes = self.nodes.copy()
        steps: dict[tuple[int, int], FloatArray] = {}
        for node, meeting in enumerate(meetings):
            if meeting:
                found = joint(nodes[node], meeting, walls, NOT_OF_IT * tolerance)
                nodes[node] = found.place
                steps.update(found.steps)
        lines = [_NONE if arc.closed else nodes[[arc.start, arc.end]] for arc in arcs]
        for k, number in enumerate(long):
            index = np.arange(walls.begins[k], walls.begins[k + 1])
            if not chains.closed[k]:
                begin, end = lines[number][:1], lines[number][1:]
                corners = crossings(walls, index[:-1], index[1:])
                before, after = (steps.get((number, side), _NONE) for side in (0, 1))
                lines[number] = np.concatenate([begin, before, corners, after, end])
            elif len(index) < 4:
                lines[number] = rectangles(each[k], np.array([0, len(each[k])]))[0]
            else:
                lines[number] = crossings(walls, index, np.roll(index, -1))
        return _Drawing(lines, nodes)

    def _chains(self, numbers: list[int]) -> Chains:
        points, angles = [], []
        for number in numbers:
            arc = self.arcs.arcs[number]
            along = self.points[arc.edges]
            if arc.closed:
                # From a corner on, as rings that stand alone.
                away = ((along - along.mean(axis=0)) ** 2).sum(axis=1)
                along = np.roll(along, -int(away.argmax()), axis=0)
            else:
                along = np.concatenate([self.nodes[[arc.start]], along, self.nodes[[arc.end]]])
            beside = self.axis[list(arc.sides)]
            points.append(along)
            angles.append(np.full(len(along), beside[np.argmin(np.abs(beside))]))
        begins = offsets_of(np.array([len(part) for part in points]))
        closed = np.array([self.arcs.arcs[number].closed for number in numbers])
        return Chains(np.concatenate(points), begins, closed, np.concatenate(angles))

    def lines(
        self, drawing: _Drawing, passed: NDArray[np.bool_], spoilt: NDArray[np.bool_]
    ) -> list[FloatArray]:
        """A line for each arc. It is regular for one side that passed, unless another is spoilt; a node
        where nothing is regular stays where it was."""
        arcs = self.arcs.arcs
        sides = np.array([arc.sides for arc in arcs])
        regular = passed[sides].any(axis=1) & ~spoilt[sides].any(axis=1)
        moved = np.zeros(len(self.nodes), np.bool_)
        for arc, is_regular in zip(arcs, regular.tolist(), strict=True):
            if is_regular and not (arc.closed or arc.point):
                moved[[arc.start, arc.end]] = True
        lines = []
        for number, arc in enumerate(arcs):
            line = self.kept[number]
            if regular[number] and not arc.point:
                line = drawing.lines[number]
            elif not arc.closed:
                if arc.point and moved[arc.start]:
                    line = _NONE
                new = []
                for node, old in zip((arc.start, arc.end), self.ends[number], strict=True):
                    new.append(drawing.nodes[[node]] if moved[node] else old[None])
                    # It may have moved past the first corners.
                    line = line[np.hypot(*(line - old).T) > 1.5 * np.hypot(*(new[-1][0] - old))]
                line = np.concatenate([new[0], line, new[1]])
            lines.append(line)
        return lines

    def deviations(
        self, lines: list[FloatArray], others: list[FloatArray], wanted: Iterable[int]
    ) -> FloatArray:
        """(n,) metres of the parts' outlines from others along wanted arcs, at most: the largest."""
        numbers = list(wanted)
        result = np.zeros(len(self.row.exact))
        if numbers:
            away = shapely.hausdorff_distance(self._strings(lines, numbers), self._strings(others, numbers))
            for number, metres in zip(numbers, away.tolist(), strict=True):
                for side in self.arcs.arcs[number].sides:
                    result[side] = max(result[side], metres)
        return result

    def _strings(self, lines: list[FloatArray], numbers: list[int]) -> Geometries:
        whole = []
        for number in numbers:
            line = lines[number]
            whole.append(np.concatenate([line, line[:1]]) if self.arcs.arcs[number].closed else line)
        index = np.repeat(np.arange(len(whole)), [len(line) for line in whole])
        return np.asarray(shapely.linestrings(np.concatenate(whole), indices=index))

    def polygons(self, lines: list[FloatArray]) -> Geometries:
        """Of lines, in pixels."""
        back = np.linalg.inv(self.row.metric).T
        return self.row.polygons([turned(line, self.direction) @ back for line in lines])

    def beside(self, parts: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(n,) which parts have a node in common with some."""
        touched = np.zeros(len(self.nodes), np.bool_)
        result = np.zeros(len(parts), np.bool_)
        open_arcs = [arc for arc in self.arcs.arcs if not arc.closed]
        for arc in open_arcs:
            if parts[list(arc.sides)].any():
                touched[[arc.start, arc.end]] = True
        for arc in open_arcs:
            if touched[[arc.start, arc.end]].any():
                result[list(arc.sides)] = True
        return result


def _passed(fitting: _Fitting, scale: float, simplified: Geometries) -> Regularized:
    """The parts with those regular that pass the gate, without faults where they meet."""
    row, count = fitting.row, len(simplified)
    drawing = fitting.drawn(scale)
    metric, origin = np.broadcast_to(row.metric, (count, 2, 2)), np.zeros((count, 2))
    plain = in_metres(simplified, metric, origin)
    most = DEVIATION * max(fitting.rules.tolerance, PIXELS * row.side)
    simple = fitting.lines(drawing, np.zeros(count, np.bool_), np.ones(count, np.bool_))
    passed, spoilt = np.ones(count, np.bool_), np.zeros(count, np.bool_)
    state = np.full(count, State.SHARED, np.uint8)
    while not spoilt.all():
        lines = fitting.lines(drawing, passed, spoilt)
        built = fitting.polygons(lines)
        # Arcs that are not regular move no further than the nodes at their ends, which are on these too.
        # Held against simplified arcs first, which have a tenth of the corners.
        regular = [k for k, line in enumerate(lines) if line is drawing.lines[k]]
        away = fitting.deviations(lines, simple, regular)
        outlines = in_metres(built, metric, origin)
        now = states(outlines, plain, lambda index, metres=away: metres[index] > most)  # type: ignore[misc]
        now[~shapely.is_valid(built)] = State.INVALID
        failed = passed & (now != State.YES)
        state[failed] = now[failed]
        # What one side may have can be too much for the other, or meet what lies behind it.
        bad = ~passed & ((now == State.INVALID) | (now == State.AREA))
        if not (failed | bad).any():
            bad = ~shapely.is_empty(shapely.coverage_invalid_edges(built))
        if not (failed | bad).any():
            deviation = fitting.deviations(lines, fitting.traced, regular)
            failed = passed & (deviation > most)
            state[failed] = State.FAR
            if not failed.any():
                state[passed] = State.YES
                return Regularized(shapely.normalize(built), state, deviation)
        # Around those that have nothing of their own left to take back.
        around = fitting.beside(bad & spoilt)
        passed &= ~(failed | bad | around)
        if not (failed | ((bad | around) & ~spoilt)).any():
            break
        spoilt |= bad | around
    return Regularized(simplified, np.full(count, State.SHARED, np.uint8), np.zeros(count))

"""Parts of one region: drawn once along each wall, and read by both of its sides."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import shapely
from rasterio.features import rasterize
from scipy import ndimage
from shapely.affinity import rotate

from tests import drawn
from tilesegment.settings import Measure
from tilesegment.vector.arcs import OUTSIDE, arcs_of, contracted
from tilesegment.vector.edges import unit_edges
from tilesegment.vector.gate import State
from tilesegment.vector.joints import End, joint, united
from tilesegment.vector.regularize import Regularized, Rules
from tilesegment.vector.rings import Ragged
from tilesegment.vector.row import Row
from tilesegment.vector.shared import _Fitting, regularize_row
from tilesegment.vector.walls import Walls

METRIC = np.eye(2) * drawn.GSD


def row_of(labels: np.ndarray, tolerance: float = 0.3) -> Row:
    row = Row.of(drawn.traced(labels)[0], METRIC, Measure(tolerance))
    assert row is not None
    return row


def rules(probability: np.ndarray | None = None, tolerance: float = 0.35) -> Rules:
    if probability is None:
        return Rules("right", tolerance)
    padded = np.pad(probability, 1, constant_values=255)
    return Rules("right", tolerance, lambda rows, cols: padded[rows + 1, cols + 1], 127)


def overlaps(shapes: np.ndarray) -> int:
    return int(shapely.relate_pattern(shapes[:, None], shapes[None], "T********").sum()) - len(shapes)


def corners(shapes: np.ndarray) -> np.ndarray:
    return shapely.get_num_coordinates(shapes) - 1


class TestTerraces:
    @staticmethod
    @cache
    def town() -> list[tuple[np.ndarray, Row, Regularized]]:
        found = []
        for seed in range(5):
            houses, labels, probability = drawn.terraces(seed)
            row = row_of(labels)
            found.append(
                (houses[drawn.traced(labels)[1] - 1], row, regularize_row(row, rules(probability)))
            )
        return found

    def test_houses_are_right(self) -> None:
        iou, complexity, number = [], [], []
        for truth, _, found in self.town():
            shapes = found.geometry
            common = shapely.area(shapely.intersection(shapes, truth))
            iou.append(common / (shapely.area(shapes) + shapely.area(truth) - common))
            # Truth has a vertex too where a neighbour's wall begins.
            noded = shapely.snap(truth, shapely.MultiPoint(shapely.get_coordinates(truth)), 1e-6)
            mine, theirs = corners(shapes), corners(noded)
            complexity.append(iou[-1] * (1 - np.abs(mine - theirs) / (mine + theirs)))
            number.append((mine.sum(), theirs.sum()))
        assert np.concatenate(iou).mean() > 0.95
        assert np.concatenate(complexity).mean() > 0.93
        mine_all, theirs_all = np.sum(number, axis=0)
        assert 0.95 < mine_all / theirs_all < 1.05
        assert np.concatenate([found.state == State.YES for *_, found in self.town()]).mean() > 0.95

    def test_walls_are_shared_vertex_for_vertex(self) -> None:
        for _, row, found in self.town():
            assert shapely.coverage_is_valid(found.geometry)
            assert overlaps(found.geometry) == 0
            for one, other in zip(*np.nonzero(shapely.touches(row.exact[:, None], row.exact)), strict=True):
                before = shapely.length(shapely.intersection(row.exact[one], row.exact[other]))
                wall = shapely.intersection(found.geometry[one], found.geometry[other])
                if before < 20:
                    continue
                assert shapely.length(wall) > before / 2
                places = set(map(tuple, shapely.get_coordinates(wall).tolist()))
                for shape in found.geometry[[one, other]]:
                    assert places <= set(map(tuple, shapely.get_coordinates(shape).tolist()))

    def test_as_large_as_the_mask(self) -> None:
        before = sum(shapely.area(row.exact).sum() for _, row, _ in self.town())
        assert sum(shapely.area(found.geometry).sum() for *_, found in self.town()) == pytest.approx(
            before, rel=0.01
        )

    def test_areas_are_within_the_gate(self) -> None:
        # Rows in which some pass at once and others with shorter lengths.
        for seed in (2, 18, 32, 55):
            _, labels, probability = drawn.terraces(seed)
            row = row_of(labels)
            found = regularize_row(row, rules(probability, 1.0))
            ratio = shapely.area(found.geometry) / shapely.area(row.simplified())
            assert (np.abs(np.log(ratio[found.state == State.YES])) <= np.log(1 / 0.9) + 1e-9).all(), seed

    def test_says_how_far_outlines_moved(self) -> None:
        for _, row, found in self.town():
            away = shapely.hausdorff_distance(found.geometry, row.exact) * drawn.GSD
            yes = found.state == State.YES
            # The largest of the arcs' own, each held against its own.
            assert (found.deviation[yes] >= away[yes] - 1e-9).all()
            assert (found.deviation[yes] < away[yes] + 1).all()
            assert (found.deviation[yes] <= 6 * 0.35).all()

    @pytest.mark.parametrize("turn", [1, 2])
    @pytest.mark.parametrize("mirror", [False, True])
    def test_a_turned_scene_gives_turned_outlines(self, turn: int, mirror: bool) -> None:
        same = []
        for seed in range(3):
            _, labels, probability = drawn.terraces(seed)
            straight = regularize_row(row_of(labels), rules(probability)).geometry
            planes = [
                np.rot90(plane[:, ::-1] if mirror else plane, turn) for plane in (labels, probability)
            ]
            back = regularize_row(row_of(planes[0]), rules(planes[1])).geometry
            centre = len(labels) / 2
            back = shapely.transform(back, lambda p, c=centre: p - c)
            for _ in range(turn):
                back = shapely.transform(back, lambda p: np.column_stack([-p[:, 1], p[:, 0]]))
            back = shapely.transform(back, lambda p, c=centre: p * [-1 if mirror else 1, 1] + c)
            pairs = shapely.STRtree(back).query(shapely.point_on_surface(straight), "within")
            assert pairs.shape[1] == len(straight)
            same.append(shapely.hausdorff_distance(straight[pairs[0]], back[pairs[1]]))
        # Where arcs begin may decide a tie.
        assert np.quantile(np.concatenate(same), 0.8) < 1e-6
        assert np.concatenate(same).max() < 6 * 0.35 / drawn.GSD


def ragged(seed: int, size: int = 90, seeds: int = 9) -> np.ndarray:
    """Cells of a plane with ragged borders, a ragged rim around them, and here and there a hole."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(10, size - 10, (seeds, 2))
    at = np.stack(np.mgrid[:size, :size], axis=-1) + ndimage.gaussian_filter(
        rng.normal(0, 60, (size, size, 2)), (4, 4, 0)
    )
    away = np.linalg.norm(at[:, :, None] - places, axis=3)
    labels = np.where(away.min(axis=2) < 22, away.argmin(axis=2) + 1, 0)
    labels[rng.random((size, size)) < 0.01] = 0
    region = drawn.largest(labels > 0)
    found = np.zeros_like(labels)
    for label in np.unique(labels[region]):
        pieces, _ = ndimage.label((labels == label) & region)
        found += np.where(pieces, pieces + found.max(), 0)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_parts_nothing_overlaps_and_none_is_lost(seed: int) -> None:
    labels = ragged(seed)
    exact, _ = drawn.traced(labels)
    row = row_of(labels)
    found = regularize_row(row, rules(tolerance=0.6))
    for shapes in (row.simplified(), found.geometry):
        assert len(shapes) == len(exact)
        assert shapely.is_valid(shapes).all()
        assert shapely.coverage_is_valid(shapes)
        assert overlaps(shapes) == 0
    untouched = shapely.hausdorff_distance(found.geometry, row.simplified()) < 1e-6
    assert (found.deviation[untouched] == 0).all()
    assert (found.deviation[found.state == State.YES] > 0).all()
    assert set(found.state.tolist()) <= {int(state) for state in State}
    assert shapely.area(found.geometry).sum() == pytest.approx(shapely.area(exact).sum(), rel=0.1)


@pytest.mark.parametrize("tolerance", [0.0, 0.15, 0.45])
def test_parts_are_simplified_together(tolerance: float) -> None:
    rng = np.random.default_rng(1)
    wall = np.cumsum(rng.integers(-1, 2, 60)) + 30
    labels = np.where(np.arange(60)[None] < wall[:, None], 1, 2)
    labels[25:35, wall[30] :] = 3
    exact, _ = drawn.traced(labels)
    plain = row_of(labels, tolerance).simplified()
    assert overlaps(plain) == 0
    assert shapely.union_all(plain).area == 3600
    before = set(map(tuple, shapely.get_coordinates(exact).tolist()))
    assert set(map(tuple, shapely.get_coordinates(plain).tolist())) <= before
    assert shapely.hausdorff_distance(exact, plain).max() * drawn.GSD <= tolerance + 1e-9
    counts = (int(corners(shapes).sum()) for shapes in (plain, exact))
    assert (next(counts) < next(counts)) == (tolerance > 0)


def test_pixels_as_the_unit_of_tolerance() -> None:
    labels = np.zeros((20, 40), int)
    labels[2:18, 2:20] = 1
    labels[2:18, 20:38] = 2
    labels[2:4, 10:13] = 0
    exact, _ = drawn.traced(labels)
    for tolerance, kept in ((Measure(1.9, True), 6), (Measure(2.1, True), 4), (Measure(1.9), 4)):
        row = Row.of(exact, np.eye(2) * 0.5, tolerance)
        assert row is not None
        assert corners(row.simplified()).min() == 4
        assert corners(row.simplified()).max() == kept


def test_walls_go_on_straight_through_their_neighbours() -> None:
    labels = np.zeros((60, 120), int)
    for k in range(3):
        labels[10 + (k == 1) : 50, 10 + 30 * k : 40 + 30 * k] = k + 1
    found = regularize_row(row_of(labels), rules())
    assert (found.state == State.YES).all()
    tops = shapely.bounds(found.geometry)[:, 1]
    # One pixel is less than a step: the front is one line.
    np.testing.assert_allclose(tops, tops[0])
    assert 10 < tops[0] < 11
    assert corners(found.geometry).tolist() == [4, 4, 4]


def test_a_step_in_the_front_is_at_the_wall_between() -> None:
    labels = np.zeros((60, 80), int)
    labels[10:50, 10:40] = 1
    labels[20:50, 40:70] = 2
    found = regularize_row(row_of(labels), rules())
    assert (found.state == State.YES).all()
    np.testing.assert_allclose(
        shapely.bounds(found.geometry), [[10, 10, 40, 50], [40, 20, 70, 50]], atol=1e-9
    )
    # The higher one has a vertex where the lower one's front meets it.
    assert corners(found.geometry).tolist() == [5, 4]


def test_a_building_that_does_not_pass_leaves_its_neighbour_regular() -> None:
    labels = np.zeros((80, 120), int)
    labels[20:60, 10:50] = 1
    labels[20, 10:32] = 0
    labels[20:60, 50:60] = 2
    for row in range(20, 60, 8):
        # Teeth are no walls.
        labels[row : row + 4, 60:110] = 2
    together = row_of(labels)
    found = regularize_row(together, rules())
    house, comb = np.argsort(shapely.bounds(together.exact)[:, 0])
    assert found.state[house] == State.YES
    assert corners(found.geometry)[house] == 4
    assert found.state[comb] not in (State.YES, State.SHARED)
    assert shapely.coverage_is_valid(found.geometry)
    assert shapely.hausdorff_distance(found.geometry[comb], together.exact[comb]) < 1
    # The house's front is half a pixel lower than its corner was: that is the corner of both now.
    wall = shapely.intersection(*found.geometry)
    assert shapely.length(wall) == pytest.approx(39.5, abs=0.3)
    assert 20.2 < shapely.bounds(wall)[1] < 20.8
    places = set(map(tuple, shapely.get_coordinates(wall).tolist()))
    assert len(places) == 2
    for shape in found.geometry:
        assert places <= set(map(tuple, shapely.get_coordinates(shape).tolist()))


def test_parts_of_several_polygons_are_left_alone() -> None:
    shapes = np.array([shapely.MultiPolygon([shapely.box(0, 0, 2, 2), shapely.box(3, 3, 5, 5)])])
    assert Row.of(shapes, METRIC, Measure(0.3)) is None


class TestArcs:
    def arcs(self, labels: np.ndarray):
        outlines = Ragged.of(drawn.traced(labels)[0])
        edges = unit_edges(outlines)
        return edges, arcs_of(edges, outlines.part_of_ring())

    def test_of_two_houses_and_a_court(self) -> None:
        labels = np.zeros((12, 20), int)
        labels[2:10, 2:10], labels[2:10, 10:18] = 1, 2
        labels[4:6, 4:6] = 0
        edges, arcs = self.arcs(labels)
        assert sorted((arc.one, arc.other, len(arc.edges), arc.closed) for arc in arcs.arcs) == [
            (0, OUTSIDE, 8, True),
            (0, OUTSIDE, 24, False),
            (0, 1, 8, False),
            (1, OUTSIDE, 24, False),
        ]
        assert sorted(map(tuple, arcs.nodes.tolist())) == [(10, 2), (10, 10)]
        assert sorted(len(steps) for steps in arcs.rings) == [1, 2, 2]
        # Each is followed from the first part's side, and back from the other one's.
        wall = next(k for k, arc in enumerate(arcs.arcs) if arc.other == 1)
        assert sorted(step for steps in arcs.rings for step in steps if step[0] == wall) == [
            (wall, False),
            (wall, True),
        ]
        for arc in arcs.arcs:
            if not arc.closed:
                first, last = arc.edges[[0, -1]]
                np.testing.assert_array_equal(
                    edges.middle[first] - edges.step[first] / 2, arcs.nodes[arc.start]
                )
                np.testing.assert_array_equal(
                    edges.middle[last] + edges.step[last] / 2, arcs.nodes[arc.end]
                )

    def test_a_part_within_another(self) -> None:
        labels = np.ones((12, 12), int)
        labels[4:8, 4:8] = 2
        _, arcs = self.arcs(labels)
        assert sorted((arc.one, arc.other, arc.closed) for arc in arcs.arcs) == [
            (0, 1, True),
            (1, OUTSIDE, True),
        ]
        assert len(arcs.nodes) == 0
        row = row_of(labels)
        assert sorted(shapely.area(row.simplified())) == [16, 128]

    def test_where_parts_meet_at_a_corner_only(self) -> None:
        labels = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 1, 1], [3, 3, 1, 1]])
        labels[2:, 2:] = 4
        _, arcs = self.arcs(labels)
        assert len(arcs.nodes) == 5
        assert len(arcs.arcs) == 8
        assert {len(arc.edges) for arc in arcs.arcs} == {2, 4}

    def test_short_ones_are_points(self) -> None:
        labels = np.zeros((20, 30), int)
        labels[2:10, 2:14], labels[2:10, 14:28] = 1, 2
        # The walls above and below are two pixels from being one.
        labels[10:18, 2:16], labels[10:18, 16:28] = 3, 4
        _, arcs = self.arcs(labels)
        short = contracted(arcs, 3)
        ends = [(arc.start, arc.end) for arc in short.arcs if arc.point]
        assert all(len(arc.edges) < 3 for arc in short.arcs if arc.point)
        assert len(ends) == 1
        assert all(start == end for start, end in ends)
        assert len(short.nodes) == len(arcs.nodes) - len(ends)
        assert contracted(arcs, 1).nodes.tolist() == arcs.nodes.tolist()


class TestJoints:
    def walls(self, *lines: tuple[float, float, float]) -> Walls:
        normal = np.array([line[:2] for line in lines], float)
        count = len(lines)
        return Walls(
            np.arange(count + 1),
            normal,
            np.array([line[2] for line in lines], float),
            np.arange(1.0, count + 1),
            np.zeros((count, 2)),
            np.zeros((count, 2)),
        )

    def ends(self, *inside: tuple[float, float]) -> list[End]:
        return [End(10 + k, 0, k, np.array(place)) for k, place in enumerate(inside)]

    def test_two_lines_cross(self) -> None:
        found = joint(np.zeros(2), self.ends((5, 0), (0, 5)), self.walls((0, 1, 0.5), (1, 0, -0.25)), 3.0)
        np.testing.assert_allclose(found.place, [-0.25, 0.5])
        assert found.steps == {}

    @pytest.mark.parametrize(
        ("front", "node", "corner", "behind"), [(0.8, 0.8, 0.0, 10), (-0.8, 0.0, -0.8, 12)]
    )
    def test_a_step_is_a_corner_of_the_one_behind(
        self, front: float, node: float, corner: float, behind: int
    ) -> None:
        # Fronts at y = 0 and y = front, to the left and right of a wall that comes from below.
        walls = self.walls((0, 1, 0), (1, 0, 0.1), (0, 1, front))
        found = joint(np.zeros(2), self.ends((-5, 0), (0, 5), (5, front)), walls, 3.0)
        np.testing.assert_allclose(found.place, [0.1, node])
        assert list(found.steps) == [(behind, 0)]
        np.testing.assert_allclose(found.steps[behind, 0], [[0.1, corner]])

    def test_three_directions_meet_in_the_middle(self) -> None:
        turns = np.radians([0, 60, 120])
        walls = self.walls(
            *((np.cos(t), np.sin(t), d) for t, d in zip(turns, (0.3, 0.0, -0.3), strict=True))
        )
        found = joint(np.zeros(2), self.ends((5, 0), (0, 5), (3, 3)), walls, 3.0)
        np.testing.assert_allclose(found.place, [0.3, -0.1 * np.sqrt(3)])

    def test_one_line_does_not_say_where_along_it(self) -> None:
        found = joint(
            np.array([3.0, 1.0]), self.ends((5, 0), (-5, 0)), self.walls((0, 1, 2), (0, 1, 2)), 3.0
        )
        np.testing.assert_allclose(found.place, [3.0, 2.0])

    def test_walls_that_are_far_have_no_say(self) -> None:
        walls = self.walls((0, 1, 0.5), (1, 0, -0.25), (1, 0, 4.0))
        found = joint(np.zeros(2), self.ends((5, 0), (0, 5), (4, 0)), walls, 3.0)
        np.testing.assert_allclose(found.place, [-0.25, 0.5])
        alone = joint(np.ones(2), self.ends((5, 0)), self.walls((0, 1, 9)), 3.0)
        np.testing.assert_array_equal(alone.place, [1, 1])

    def test_near_walls_of_one_axis_are_one(self) -> None:
        walls = self.walls((0, 1, 1.0), (0, 1, 1.3), (1, 0, 1.2), (0, 1, 3.0))
        meeting = self.ends(*[(0.0, 0.0)] * 4)
        found = united(walls, [meeting[:3], [meeting[1], meeting[3]]], 0.5)
        # The mean by points: 1 and 2 of them.
        np.testing.assert_allclose(found.distance, [1.2, 1.2, 1.2, 3.0])
        assert found.distance[0] == found.distance[1]
        np.testing.assert_allclose(united(walls, [meeting], 0.2).distance, walls.distance)


def test_two_houses_with_a_gap_between() -> None:
    """A slot from outside that ends between two houses."""
    labels = np.zeros((70, 90), int)
    labels[10:60, 10:44], labels[10:60, 44:80] = 1, 2
    labels[10:40, 43:45] = 0
    found = regularize_row(row_of(labels), rules())
    assert shapely.is_valid(found.geometry).all()
    assert shapely.coverage_is_valid(found.geometry)
    assert (found.state == State.YES).all()


@pytest.mark.parametrize("degrees", [25, -20])
def test_a_house_that_stands_askew_keeps_its_direction(degrees: float) -> None:
    """Beside a long one, which gives the row its own."""
    long = shapely.box(20, 20, 220, 90)
    askew = rotate(shapely.box(218, 30, 290, 80), degrees, origin=(218, 55))
    labels = rasterize([(askew, 2), (long, 1)], (160, 320), dtype="uint8").astype(np.int32)
    row = row_of(labels)
    assert len(row.exact) == 2
    fitting = _Fitting.of(row, rules())
    directions = np.degrees(fitting.direction + fitting.axis)
    wanted = np.array([0.0, degrees])
    if row.exact[0].area < row.exact[1].area:
        wanted = wanted[::-1]
    # Half a right angle is the furthest that two directions can be apart.
    assert np.abs((directions - wanted + 45) % 90 - 45).max() < 3

"""Regular outlines: quality against drawn roofs, and polygons a second on one core.

    python benchmarks/regularize.py [--roofs 4489] [--rows 200] [--noise 0.3] [--repeat 3] [--peer PYTHON]

Roofs are drawn at every angle and turned into noisy probabilities (see tests/drawn.py). IoU, C-IoU (IoU
times 1 - |N - M| / (N + M), N corners against M true ones) and N / M are means over all. PYTHON: an
interpreter that has buildingregulariser; the same traced outlines are given to it.

Rows of three to six houses at every angle, with borders between them that are off by a pixel or two, are
drawn beside: N counts a corner too where a neighbour's wall begins.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import geopandas
import numpy as np
import shapely
from measure import RESULTS, show

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import drawn
from tilesegment.grid import Window
from tilesegment.settings import Measure
from tilesegment.vector.regularize import Rules, regularize
from tilesegment.vector.row import Row
from tilesegment.vector.shared import regularize_row
from tilesegment.vector.trace import trace
from tilesegment.vector.union import canonical_outlines

_LEAST = 127
_PEER = """
import sys, time, geopandas
from buildingregulariser import regularize_geodataframe
frame = geopandas.read_file(sys.argv[1])
begin = time.perf_counter()
found = regularize_geodataframe(frame, simplify_tolerance=float(sys.argv[3]), num_cores=1)
print(time.perf_counter() - begin)
found.to_file(sys.argv[2])
"""


def traced(count: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outlines along pixel edges, the roof that each is of, and the scene's probabilities."""
    truth, scene = drawn.roofs(count, noise)
    mask = (scene >= _LEAST).astype(np.uint8)
    fragments = trace(mask, scene, Window(0, 0, *scene.shape), scene.shape[1], 0)
    outlines = canonical_outlines(fragments.outlines)
    # Of each roof the largest outline on it.
    roof, outline = shapely.STRtree(outlines).query(truth, "intersects")
    order = np.lexsort((-shapely.area(outlines[outline]), roof))
    first = np.unique(roof[order], return_index=True)[1]
    return outlines[outline[order][first]], truth[roof[order][first]], scene


def quality(shapes: Any, truth: np.ndarray) -> dict[str, float]:
    """Means over all pairs."""
    shapes = shapely.make_valid(shapes)
    common = shapely.area(shapely.intersection(shapes, truth))
    iou = common / (shapely.area(shapes) + shapely.area(truth) - common)
    mine, theirs = (
        shapely.get_num_coordinates(g) - 1 - shapely.get_num_interior_rings(g).clip(0)
        for g in (shapes, truth)
    )
    return {
        "IoU": float(iou.mean()),
        "C-IoU": float((iou * (1 - np.abs(mine - theirs) / (mine + theirs))).mean()),
        "N-ratio": float(mine.sum() / theirs.sum()),
    }


def row_houses(count: int) -> list[dict[str, Any]]:
    """Rows of houses along pixel edges, simplified and regular; the share of rows without a fault where
    houses meet, and houses a second."""
    metric = np.eye(2) * drawn.GSD
    shapes: dict[str, list[np.ndarray]] = {"along pixel edges": [], "simplified": [], "regular": []}
    truth, states, valid, seconds = [], [], 0, 0.0
    for seed in range(count):
        houses, labels, probability = drawn.terraces(seed)
        padded = np.pad(probability, 1, constant_values=255)
        exact, number = drawn.traced(labels)
        begin = time.perf_counter()
        together = Row.of(exact, metric, Measure(0.3))
        if together is None:
            raise ValueError(f"row {seed}: a house of several polygons")
        rules = Rules("right", 0.35, lambda r, c, p=padded: p[r + 1, c + 1], _LEAST)
        found = regularize_row(together, rules)
        seconds += time.perf_counter() - begin
        for name, part in zip(shapes, (exact, together.simplified(), found.geometry), strict=True):
            shapes[name].append(part)
        wanted = houses[number - 1]
        truth.append(shapely.snap(wanted, shapely.MultiPoint(shapely.get_coordinates(wanted)), 1e-6))
        states.append(found.state)
        valid += bool(shapely.coverage_is_valid(found.geometry))
    all_of = np.concatenate(truth)
    rows = [
        {"what": f"row houses, {name}", **quality(np.concatenate(parts), all_of)}
        for name, parts in shapes.items()
    ]
    rows[-1] |= {
        "accepted": float((np.concatenate(states) == 0).mean()),
        "polygons/s": len(all_of) / seconds,
        "rows without a fault": valid / count,
    }
    return rows


def main() -> None:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--roofs", type=int, default=4489)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--noise", type=float, default=0.3)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peer", help="Python that has buildingregulariser")
    given = parser.parse_args()
    outlines, truth, scene = traced(given.roofs, given.noise)
    scene = np.pad(scene, 1, constant_values=255)
    plain = shapely.simplify(outlines, 1.0)
    metric = np.broadcast_to(np.eye(2) * drawn.GSD, (len(outlines), 2, 2))
    rows: list[dict[str, Any]] = [
        {"what": "along pixel edges", **quality(outlines, truth)},
        {"what": "Douglas-Peucker, 1 px", **quality(plain, truth)},
    ]
    for name, tolerance in (("fine", 0.2), ("default", 0.35), ("map", 1.0)):
        rules = Rules("right", tolerance, lambda r, c: scene[r + 1, c + 1], _LEAST)
        seconds = []
        for _ in range(given.repeat):
            begin = time.perf_counter()
            parts = [slice(k, k + 256) for k in range(0, len(outlines), 256)]
            found = [regularize(outlines[s], plain[s], metric[s], rules) for s in parts]
            seconds.append(time.perf_counter() - begin)
        state = np.concatenate([part.state for part in found])
        rows.append(
            {
                "what": f"--regularize right --tolerance {name}",
                **quality(np.concatenate([part.geometry for part in found]), truth),
                "accepted": float((state == 0).mean()),
                "polygons/s": len(outlines) / median(seconds),
            }
        )
    if given.peer is not None:
        work = RESULTS / "work"
        work.mkdir(parents=True, exist_ok=True)
        metres = shapely.transform(outlines, lambda p: p * drawn.GSD)
        geopandas.GeoDataFrame(geometry=metres, crs="EPSG:32737").to_file(work / "traced.gpkg")
        for tolerance in (0.3, 0.45, 0.6):
            command = [given.peer, "-c", _PEER, work / "traced.gpkg", work / "peer.gpkg", str(tolerance)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            shapes = geopandas.read_file(work / "peer.gpkg").geometry.to_numpy()
            shapes = shapely.transform(shapes, lambda p: p / drawn.GSD)
            rows.append(
                {
                    "what": f"buildingregulariser, {tolerance} m",
                    **quality(shapes, truth),
                    "polygons/s": len(outlines) / float(answer.split()[-1]),
                }
            )
    rows += row_houses(given.rows)
    columns = dict.fromkeys(key for row in rows for key in row)
    show("regularize", [{key: row.get(key, "") for key in columns} for row in rows])


if __name__ == "__main__":
    main()

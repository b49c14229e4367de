"""Evaluations of very many objects and of a large scene: seconds and peak memory.

    python benchmarks/evaluate.py [--objects 100000,1000000] [--megapixels 98]

Objects are houses on a lattice, each turned, with its prediction shifted; scenes are masks of 98 Mpx.
Exit 1 where a million by a million takes over two minutes or over 1 GB.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import shapely
from affine import Affine
from measure import RESULTS, run_measured, show, tilesegment

CRS = "EPSG:32637"


def houses(count: int, seed: int, shift: float) -> np.ndarray:
    """Houses on a lattice of 25 m, (count,): the same for the same seed but for the shift in metres."""
    rng = np.random.default_rng(seed)
    side = math.ceil(count**0.5)
    place = np.stack(np.divmod(np.arange(count), side), axis=1) * 25.0 + [5e5, 9e5]
    half = rng.uniform(3, 8, (count, 1, 2)) * [[1, 1], [-1, 1], [-1, -1], [1, -1]]
    angle = rng.uniform(0, np.pi / 2, count)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    moved = rng.normal(0, 1, (count, 1, 2)) * shift
    return shapely.polygons(np.einsum("nij,nkj->nki", turn, half) + place[:, None] + moved)


def save(path: Path, geometry: np.ndarray, confidence: bool) -> Path:
    """A GeoParquet layer."""
    columns = {"confidence": np.random.default_rng(1).uniform(0.5, 1, len(geometry))} if confidence else {}
    geopandas.GeoDataFrame(columns, geometry=geometry, crs=CRS).to_parquet(path)
    return path


def mask(path: Path, megapixels: float, seed: int) -> Path:
    """A class raster of 0.15 m with a house every 25 m, written in strips."""
    size = int((megapixels * 1e6) ** 0.5)
    rng = np.random.default_rng(seed)
    profile = {
        "driver": "GTiff", "width": size, "height": size, "count": 1, "dtype": "uint8",
        "compress": "deflate", "tiled": True, "crs": CRS, "transform": Affine(0.15, 0, 5e5, 0, -0.15, 9e5),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as out:
        for row in range(0, size, 512):
            strip = np.zeros((min(512, size - row), size), np.uint8)
            for col in range(20, size - 120, 160):
                top, left = rng.integers(0, 300), col + rng.integers(0, 20)
                strip[top : top + 90, left : left + 90] = 1
            out.write(strip, 1, window=rasterio.windows.Window(0, row, size, len(strip)))
    return path


def main() -> int:
    """Run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", default="100000,1000000")
    parser.add_argument("--megapixels", type=float, default=98)
    given = parser.parse_args()
    work = RESULTS / "work"
    work.mkdir(parents=True, exist_ok=True)
    rows, failed = [], False
    for count in map(int, given.objects.split(",")):
        truth = save(work / "truth.parquet", houses(count, 0, 0.0), confidence=False)
        found = save(work / "found.parquet", houses(count, 0, 0.8), confidence=True)
        # The pixels of a lattice of a million houses at 0.25 m would be ten billion: larger ones serve.
        pixel = max(0.25, round(0.25 * (count / 1e4) ** 0.5, 2))
        measured = run_measured(tilesegment("evaluate", found, truth, "--pixel", str(pixel)))
        rows.append({"case": f"{count:,} x {count:,} polygons, pixels of {pixel} m", **figures(measured)})
        failed |= count >= 1_000_000 and (measured.seconds > 120 or measured.peak_bytes > 1e9)
        print(rows[-1], flush=True)
    one, other = (mask(work / f"mask{k}.tif", given.megapixels, k) for k in (0, 1))
    measured = run_measured(tilesegment("evaluate", one, other))
    rows.append({"case": f"two masks of {given.megapixels:g} Mpx", **figures(measured)})
    show("evaluate", rows)
    return int(failed)


def figures(measured: object) -> dict[str, float]:
    """Of a command."""
    return {"seconds": round(measured.seconds, 1), "peak MB": round(measured.peak_bytes / 1e6)}


if __name__ == "__main__":
    sys.exit(main())

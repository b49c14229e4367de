"""Tracing and joining in Mpx/s, with pixel statistics, and polygons written a second.

    python benchmarks/vector.py [--mask FILE] [--megapixels 100] [--threads 1,2] [--repeat 3]

The mask is a class raster (default: the demo's town, predicted); it is repeated to the size and held in
memory, so that only our own work is timed: bands traced in threads, then joined, without cleaning. GDAL's
`shapes`, without statistics, is timed beside it. The last rows time whole commands.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import rasterio
from measure import RESULTS, show, tilesegment, town
from rasterio.features import shapes

from tilesegment.grid import Window
from tilesegment.tiling.plan import Plan
from tilesegment.vector.seams import join
from tilesegment.vector.trace import bands_of, trace


def large_mask(path: Path, megapixels: float) -> np.ndarray:
    """The classes of a raster, repeated to a size; 255 becomes 0."""
    with rasterio.open(path) as dataset:
        values = dataset.read(1)
    values = np.where(values == 255, 0, values).astype(np.uint8)
    side = round((megapixels * 1e6) ** 0.5)
    times = [-(-side // length) for length in values.shape]
    return np.ascontiguousarray(np.tile(values, times)[:side, :side])


def traced_and_joined(mask: np.ndarray, probability: np.ndarray, threads: int) -> tuple[float, float, int]:
    """Seconds for tracing, for joining, and the number of polygons."""
    height, width = mask.shape
    plan = Plan(height, width, Window(0, 0, height, width), (512, 512), 64)
    bands = [band[0] for band in bands_of(plan, plan.region, shared_outlines=False)]
    begin = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        fragments = list(
            pool.map(lambda w: trace(mask[w.slices], probability[w.slices], w, width, 0), bands)
        )
    between = time.perf_counter()
    groups = [([k], band.row_end * width) for k, band in enumerate(bands)]
    count = sum(len(features) for features in join(fragments.__getitem__, groups))
    return between - begin, time.perf_counter() - between, count


def gdal_alone(mask: np.ndarray) -> float:
    """Seconds that GDAL's polygoniser takes for the same mask."""
    begin = time.perf_counter()
    for _ in shapes(mask, mask != 0):
        pass
    return time.perf_counter() - begin


def timed(run: Callable[[], object]) -> float:
    """Seconds of a call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def main() -> None:
    """Alternate, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mask", type=Path)
    parser.add_argument("--megapixels", type=float, default=100)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    work = RESULTS / "work"
    path = given.mask
    if path is None:
        path = work / "town-mask.tif"
        subprocess.run(
            tilesegment("predict", town(work), "-o", path, "--overwrite", "--no-resume", "-q"), check=True
        )
    mask = large_mask(path, given.megapixels)
    size = mask.size / 1e6
    probability = np.random.default_rng(0).integers(0, 255, mask.shape, np.uint8)
    threads = list(map(int, given.threads.split(",")))
    ours: dict[int, list[tuple[float, float, int]]] = {count: [] for count in threads}
    gdal = []
    for _ in range(given.repeat):
        for count in threads:
            ours[count].append(traced_and_joined(mask, probability, count))
        gdal.append(gdal_alone(mask))
    rows = []
    for count, runs in ours.items():
        tracing, joining = median(run[0] for run in runs), median(run[1] for run in runs)
        rows.append(
            {
                "what": f"trace + join, {count} threads",
                "polygons": runs[0][2],
                "seconds": tracing + joining,
                "Mpx/s": size / (tracing + joining),
                "tracing s": tracing,
                "joining s": joining,
            }
        )
    seconds = median(gdal)
    rows.append({"what": "GDAL shapes alone", "polygons": "", "seconds": seconds, "Mpx/s": size / seconds})
    raster = work / "vector.tif"
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "tiled": True, "compress": "deflate"}
    with rasterio.open(
        raster, "w", height=mask.shape[0], width=mask.shape[1], crs="EPSG:32737",
        transform=rasterio.Affine(0.15, 0, 4e5, 0, -0.15, 9e6), **profile,
    ) as out:  # fmt: skip
        out.write(mask, 1)
    command = tilesegment("vectorize", raster, "-o", work / "vector.gpkg", "--overwrite", "--json")
    seconds = median(timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
                     for _ in range(given.repeat))  # fmt: skip
    record = json.loads(subprocess.check_output(command))
    rows.append(
        {
            "what": "tilesegment vectorize",
            "polygons": record["polygons"],
            "seconds": seconds,
            "Mpx/s": size / seconds,
            "polygons/s": record["polygons"] / seconds,
        }
    )
    columns = dict.fromkeys(key for row in rows for key in row)
    show("vector", [{key: row.get(key, "") for key in columns} for row in rows])


if __name__ == "__main__":
    main()

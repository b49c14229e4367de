"""A tour of the Python interface: python examples/tour.py SCENE FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import rasterio

import tilesegment


def main(scene: str, folder: Path) -> None:
    """Look at a scene, predict it in several ways, and say how they agree."""
    folder.mkdir(parents=True, exist_ok=True)

    # What is it, and what will it cost?
    info = tilesegment.info(scene)
    print(f"{info['metres_per_pixel'][0]:.3f} m a pixel, {info['valid_share']:.0%} of it valid")
    plan = tilesegment.plan(scene, max_memory="1GB")
    print(f"{plan['tiles']} tiles, {plan['memory_bytes']['total'] / 1e6:.0f} MB")

    # Files: polygons, and from the same run the mask; the record says how it went.
    record = tilesegment.predict(
        scene, folder / "roofs.gpkg", mask=folder / "mask.tif", min_area=4, overwrite=True
    )
    print(f"{record['counts']['polygons']} roofs in {record['seconds']['wall']:.1f} s")

    # No file at all: a GeoDataFrame.
    roofs = tilesegment.predict(scene, min_area=4)
    large = roofs[roofs["area_m2"] > 100]
    print(f"{len(large)} of {len(roofs)} roofs are larger than 100 square metres")

    # Pixels that are in memory already.
    with rasterio.open(scene) as dataset:
        half = rasterio.windows.Window(0, 0, dataset.width // 2, dataset.height)
        pixels = dataset.read([1, 2, 3], window=half)
        place, crs = dataset.window_transform(half), dataset.crs.to_wkt()
    west = tilesegment.predict(pixels, transform=place, crs=crs, min_area=4)
    print(f"{len(west)} roofs in the western half")

    # The mask traced again, with other rules.
    coarse = folder / "coarse.gpkg"
    again = tilesegment.vectorize(folder / "mask.tif", coarse, simplify="1m", overwrite=True)
    print(f"{again['polygons']} outlines within a metre")

    # How alike are two answers? The same measures serve for real truth.
    figures = tilesegment.evaluate_scene(coarse, folder / "roofs.gpkg")
    print(f"IoU of the two: {figures['pixels']['iou']:.2f}")

    # Many scenes, one after the other, with one model; and all of them as one layer.
    for result in tilesegment.predict_many([scene], folder / "town.gpkg", merge=True, overwrite=True):
        print(Path(result.source).name, result.outcome, len(result.polygons()))
    with tilesegment.open_scene(scene, gsd=0.3) as blurred:
        values = blurred.read(blurred.grid.window).values
    print(f"at 0.3 m the scene has {np.prod(values.shape[1:]) / 1e6:.2f} Mpx")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

"""One scene through torchgeo: GridGeoSampler and a DataLoader, the usual stitching (later tiles overwrite
earlier ones), rasterio's shapes. Run by ../peers.py in torchgeo's environment: MODEL SCENE MASK POLYGONS
TILE OVERLAP."""

from __future__ import annotations

import sys
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import torch
from network import Probability
from rasterio.features import shapes
from torch.utils.data import DataLoader
from torchgeo.datasets import RasterDataset, stack_samples
from torchgeo.samplers import GridGeoSampler, Units


def main() -> None:
    """Predict and vectorise."""
    model, scene, mask, polygons = map(Path, sys.argv[1:5])
    tile, overlap = int(sys.argv[5]), int(sys.argv[6])
    network = Probability(model)
    dataset = RasterDataset(str(scene))
    sampler = GridGeoSampler(dataset, size=tile, stride=tile - overlap, units=Units.PIXELS)
    with rasterio.open(scene) as source:
        profile, transform = source.profile, source.transform
        found = np.zeros((source.height, source.width), np.uint8)
    with torch.inference_mode():
        for batch in DataLoader(dataset, 2, sampler=sampler, collate_fn=stack_samples, num_workers=0):
            probability = network(batch["image"][:, :3].float())
            for values, (x, y, *_) in zip(probability, batch["bounds"], strict=True):
                col, row = map(round, ~transform * (x.start, y.stop))
                # The last tiles of a row or a column reach beyond the scene.
                top, left = max(0, -row), max(0, -col)
                part = (values[0] > 0.5)[top : found.shape[0] - row, left : found.shape[1] - col]
                row, col = max(0, row), max(0, col)
                found[row : row + part.shape[0], col : col + part.shape[1]] = part.numpy()
    profile.update(count=1, dtype="uint8", nodata=None, compress="deflate", photometric="minisblack")
    with rasterio.open(mask, "w", **profile) as out:
        out.write(found, 1)
    features = [
        {"type": "Feature", "properties": {"class": int(value)}, "geometry": outline}
        for outline, value in shapes(found, found == 1, transform=transform)
    ]
    frame = geopandas.GeoDataFrame.from_features(features, crs=profile["crs"])
    frame["geometry"] = frame.simplify(0.1)
    frame[frame.area >= 2].to_file(polygons)


if __name__ == "__main__":
    main()

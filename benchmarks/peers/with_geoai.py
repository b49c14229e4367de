"""One scene through geoai: `predict_geotiff`, then `raster_to_vector`. Run by ../peers.py in geoai's
environment: MODEL SCENE MASK POLYGONS TILE OVERLAP."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from geoai.inference import predict_geotiff
from geoai.utils.raster import raster_to_vector
from network import Probability


def main() -> None:
    """Predict and vectorise."""
    model, scene, mask, polygons = map(Path, sys.argv[1:5])
    predict_geotiff(
        Probability(model),
        str(scene),
        str(mask),
        tile_size=int(sys.argv[5]),
        overlap=int(sys.argv[6]),
        batch_size=2,
        input_bands=[1, 2, 3],
        num_classes=1,
        output_dtype="uint8",
        output_nodata=255,
        blend_mode="cosine",
        preprocess_fn=lambda tile: tile.astype(np.float32),
        postprocess_fn=lambda probability: (probability > 0.5).astype(np.uint8),
        device="cpu",
        compress="deflate",
        verbose=False,
    )
    raster_to_vector(str(mask), str(polygons), class_values=[1], min_area=2, simplify_tolerance=0.1)


if __name__ == "__main__":
    main()

"""One scene through raster-vision: sliding windows, score blending ("smooth" labels), polygon output.
Run by ../peers.py in raster-vision's environment: MODEL SCENE MASK POLYGONS TILE OVERLAP."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from network import Probability
from rastervision.core.data import ClassConfig, PolygonVectorOutputConfig, SemanticSegmentationLabels
from rastervision.pytorch_learner import SemanticSegmentationSlidingWindowGeoDataset
from torch.utils.data import DataLoader


def main() -> None:
    """Predict and vectorise."""
    model, scene, mask, polygons = map(Path, sys.argv[1:5])
    tile, overlap = int(sys.argv[5]), int(sys.argv[6])
    network = Probability(model)
    classes = ClassConfig(names=["background", "roof"], null_class="background")
    dataset = SemanticSegmentationSlidingWindowGeoDataset.from_uris(
        image_uri=str(scene), class_config=classes, size=tile, stride=tile - overlap, normalize=False
    )

    def scores() -> Iterator[np.ndarray]:
        with torch.inference_mode():
            for tiles, _ in DataLoader(dataset, 2, num_workers=0):
                roof = network(tiles[:, :3].float())
                yield from torch.cat([1 - roof, roof], dim=1).numpy()

    labels = SemanticSegmentationLabels.from_predictions(
        dataset.windows, scores(), extent=dataset.scene.extent, num_classes=2, smooth=True
    )
    with tempfile.TemporaryDirectory() as folder:
        labels.save(
            folder,
            crs_transformer=dataset.scene.raster_source.crs_transformer,
            class_config=classes,
            discrete_output=True,
            smooth_output=False,
            vector_outputs=[PolygonVectorOutputConfig(class_id=1)],
        )
        shutil.copy(Path(folder) / "labels.tif", mask)
        shutil.copy(next(Path(folder).rglob("*.json")), polygons.with_suffix(".json"))


if __name__ == "__main__":
    main()

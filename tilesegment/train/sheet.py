"""A sheet of samples before training: image, mask, and both augmented."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tilesegment.datasets.sample import Reader
from tilesegment.train.augment import Augment
from tilesegment.train.config import TrainConfig
from tilesegment.train.plots import coloured, draw_panels, picture


def draw_sheet(
    path: Path, reader: Reader, config: TrainConfig | None, size: tuple[int, int], rows: int = 6
) -> None:
    """Samples of the training split, spread over it; augmented as `config` says, else cut to `size`."""
    steps, fit, value_range = (), "crop", (0.0, 255.0)
    if config is not None:
        steps, fit, value_range = config.augment, config.data.fit, config.card.value_range  # type: ignore[assignment]
        size = config.data.size
    augment = Augment(steps, size, fit)
    count = len(reader.names("train"))
    sheet = []
    for index in np.linspace(0, count - 1, min(rows, count)).astype(int).tolist():
        sample = reader.read("train", index, np.random.default_rng([0, index]))
        changed = augment(sample, index)
        sheet.append(
            [
                picture(sample, value_range),
                coloured(sample.label, reader.classes),
                picture(changed, value_range),
                coloured(changed.label, reader.classes),
            ]
        )
    if sheet:
        draw_panels(path, sheet, ["image", "mask", "augmented", "its mask"])

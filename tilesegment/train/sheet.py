"""A sheet of samples before training: image, mask, and both augmented."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tilesegment.datasets.sample import Reader
from tilesegment.datasets.values import values_of
from tilesegment.report.panels import coloured, picture_of, sheet_of
from tilesegment.train.augment import Augment
from tilesegment.train.batches import in_unit_range
from tilesegment.train.config import TrainConfig


def draw_sheet(
    path: Path, reader: Reader, config: TrainConfig | None, size: tuple[int, int], rows: int = 6
) -> None:
    """Samples of the training split, spread over it; augmented as `config` says, else cut to `size`."""
    steps, fit = (), "crop"
    _, value_range = values_of(reader)
    if config is not None:
        steps, fit, size = config.augment, config.data.fit, config.data.size  # type: ignore[assignment]
        value_range = config.card.value_range or value_range
    augment = Augment(steps, size, fit)
    count = len(reader.names("train"))
    sheet, names = [], []
    for index in np.linspace(0, count - 1, min(rows, count)).astype(int).tolist():
        sample = reader.read("train", index, np.random.default_rng([0, index]))
        changed = augment(in_unit_range(sample, value_range), index)
        names.append(reader.names("train")[index])
        sheet.append(
            [
                picture_of(sample, value_range),
                coloured(sample.label, reader.classes),
                picture_of(changed, (0.0, 1.0)),
                coloured(changed.label, reader.classes),
            ]
        )
    if sheet:
        sheet_of(sheet, ["image", "mask", "augmented", "its mask"], names).save(path)

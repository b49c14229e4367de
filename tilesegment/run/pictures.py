"""Pictures in memory, predicted as scenes are: by tiles and blending."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilesegment.datasets.sample import Sample
from tilesegment.grid import Window
from tilesegment.model.engines import Predictor, Setup, load_engine
from tilesegment.model.engines.choose import EngineChoice, choose_engine
from tilesegment.model.preprocess import ValueRange
from tilesegment.model.store import ModelFile
from tilesegment.raster.spec import Pixels, SceneSpec
from tilesegment.run.block.file import BlockPixels
from tilesegment.run.block.job import Job, TraceSettings
from tilesegment.run.block.rows import predict_rows
from tilesegment.run.block.stopwatch import Stopwatch
from tilesegment.run.scene.prepare import cores
from tilesegment.tiling.blend import NODATA
from tilesegment.tiling.plan import Plan, fitting_tile
from tilesegment.vector.trace import Fragments


@dataclass
class Picture:
    """A picture in memory, read as a scene is."""

    sample: Sample

    def read(self, window: Window) -> Pixels:
        """Pixels of a window, invalid where it reaches beyond the picture."""
        bands, rows, cols = self.sample.values.shape
        values = np.zeros((bands, window.height, window.width), self.sample.values.dtype)
        valid = np.zeros((window.height, window.width), np.bool_)
        inside = window.intersection(Window(0, 0, rows, cols))
        if inside is not None:
            here, there = inside.relative_to(window).slices, inside.slices
            values[:, here[0], here[1]] = self.sample.values[:, there[0], there[1]]
            valid[here] = self.sample.valid[there]
        return Pixels(values, valid)


@dataclass
class _Collected:
    """Where predicted rows go."""

    probability: NDArray[np.uint8]
    classes: NDArray[np.uint8] | None = None

    def rows(self, row: int, pixels: BlockPixels) -> None:
        end = row + len(pixels.probability)
        self.probability[row:end] = pixels.probability
        if pixels.classes is not None:
            if self.classes is None:
                self.classes = np.full_like(self.probability, NODATA)
            self.classes[row:end] = pixels.classes

    def fragments(self, band: int, fragments: Fragments) -> None:
        """Nothing is traced."""


@dataclass
class ModelRunner:
    """A model, loaded once, that predicts pictures in memory by tiles and blending. engine: None for the
    one that `predict` takes."""

    model: ModelFile
    dtype: str
    engine: EngineChoice | None = None

    def __post_init__(self) -> None:
        card = self.model.card
        self._choice = self.engine or choose_engine(
            "auto", "auto", "auto", self.model.quantized, self.model.graph is not None
        )
        self._range = ValueRange.of_all(card.value_range, len(card.bands))
        self._tracing = TraceSettings(card.threshold, card.foreground, trace=False)
        self._loaded: dict[tuple[int, int], Predictor] = {}

    def predictor(self, tile: tuple[int, int]) -> Predictor:
        """The model for tiles of a size; pictures mostly have one size."""
        if tile not in self._loaded:
            self._loaded.clear()
            setup = Setup(
                tile=tile,
                dtype=self.dtype,
                range=self._range,
                device=self._choice.device,
                precision=self._choice.precision,
                streams=cores(),
            )
            self._loaded[tile] = load_engine(self._choice.engine, self.model, setup)
        return self._loaded[tile]

    def predict(self, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Classes and probability (rows, columns), as in a run's masks; NODATA where nothing is valid."""
        card, (rows, cols) = self.model.card, sample.label.shape
        tile, overlap = fitting_tile(card.tile, rows, cols, card.overlap)
        plan = Plan(rows, cols, Window(0, 0, rows, cols), tile, overlap)
        job = Job(
            scene=SceneSpec("", tuple(range(1, len(card.bands) + 1))),
            model=self.model,
            plan=plan,
            dtype=self.dtype,
            range=self._range,
            blend="cosine",
            engine=self._choice,
            batch=None,
            streams=cores(),
            aoi=None,
            tracing=self._tracing,
            folder="",
        )
        found = _Collected(np.full((rows, cols), NODATA, np.uint8))
        for block in plan.blocks:
            predict_rows(Picture(sample), self.predictor(tile), job, block, Stopwatch(), found)
        return self._tracing.classes(found.classes, found.probability), found.probability

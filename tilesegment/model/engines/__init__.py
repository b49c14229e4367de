"""Engines run a network over batches of tiles, behind one protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tilesegment.model.preprocess import ValueRange
from tilesegment.model.store import ModelFile
from tilesegment.tiling.blend import Blender

# Tiles a call on a GPU, where nobody says otherwise.
GPU_BATCH = 16


@dataclass(frozen=True)
class Setup:
    """What an engine must know besides the model.

    tile: (rows, columns); dtype: of the raw values; range: what of them becomes 0 and 1.
    device, precision: as `choose_engine` gave them; device_index: the worker's number, which picks one of
    several GPUs. batch: tiles a call, None for the engine's own; streams: threads to predict with. contact:
    the probability of lying between two buildings is wanted too. compiled: the engine may take a minute to
    make the network faster.
    """

    tile: tuple[int, int]
    dtype: str
    range: ValueRange
    device: str = "cpu"
    device_index: int = 0
    precision: str = "fp32"
    batch: int | None = None
    streams: int = 1
    contact: bool = False
    compiled: bool = False


class Pending(Protocol):
    """A batch that is being predicted."""

    def result(self) -> Any:
        """Wait for it: probabilities in whole steps of 1/16256, (tiles, channels, rows, columns), in the
        form that the engine's own blender takes; one channel, that of class 1, for two classes, and one
        more where contact is wanted."""
        ...

    def cancel(self) -> object:
        """Nobody wants the result any more."""
        ...


class Predictor(Protocol):
    """A loaded model.

    name: engine, version, device and precision; two runs with equal names give equal values.
    batch: tiles a call, at most; depth: calls that keep it busy when they are under way together.
    """

    name: str
    batch: int
    depth: int

    def submit(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> Pending:
        """Begin to predict raw tiles: values (tiles, bands, rows, columns), valid (tiles, rows,
        columns)."""
        ...

    def blender(self, weights: NDArray[np.uint32], width: int, top: int) -> Blender:
        """Running sums for its results, over a strip of `width` columns whose first row is `top`."""
        ...


def load_engine(name: str, model: ModelFile, setup: Setup) -> Predictor:
    """An engine with a model, by the name that `choose_engine` gave. Only here engines are imported."""
    if name == "torch":
        from tilesegment.model.engines.torch import TorchPredictor

        return TorchPredictor(model, setup)
    if name == "onnx":
        from tilesegment.model.engines.onnx import OnnxPredictor

        return OnnxPredictor(model, setup)
    from tilesegment.model.engines.openvino import OpenVinoPredictor

    return OpenVinoPredictor(model, setup)

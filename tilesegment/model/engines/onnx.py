"""The ONNX Runtime engine for CPUs: the network as a graph from `model.export`, without torch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tilesegment.model.engines import Pending, Setup
from tilesegment.model.export import graph_file
from tilesegment.model.preprocess import normalise
from tilesegment.model.store import ModelFile
from tilesegment.tiling.blend import Accumulator, Blender, quantise


class OnnxPredictor:
    """A network on the CPU: `setup.streams` tiles side by side, each on one thread."""

    def __init__(self, model: ModelFile, setup: Setup) -> None:
        self.batch = setup.batch or 1
        self.depth = 2 * setup.streams + 1
        self.name = f"onnxruntime {onnxruntime.__version__} cpu fp32"
        self._card, self._setup = model.card, setup
        self._padded = model.padded(setup.tile)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            graph_file(model, "onnx", self._padded), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        # A network of a fixed number of tiles is given empty ones beside the one that counts.
        self._tiles = 1 if model.graph is None else model.graph.batch or 1
        self._pool = ThreadPoolExecutor(setup.streams)

    def submit(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> Pending:
        """See `Predictor`."""
        return self._pool.submit(self._run, values, valid)

    def blender(self, weights: NDArray[np.uint32], width: int, top: int) -> Blender:
        """See `Predictor`."""
        return Accumulator(weights, self._card.channels, width, top, self._setup.contact)

    def _run(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.uint16]:
        found, classes = [], len(self._card.classes)
        for tile, mask in zip(values, valid, strict=True):
            height, width = mask.shape
            ready = normalise(tile, mask, self._setup.range, self._card)
            ready = np.pad(ready, [(0, 0), (0, self._padded[0] - height), (0, self._padded[1] - width)])
            batch = np.zeros((self._tiles, *ready.shape), np.float32)
            batch[0] = ready
            given = self._session.run(None, {self._input: batch})[0][:1]
            logits = (given[:, None] if given.ndim == 3 else given)[:, :, :height, :width]
            planes = [self._probability(logits[:, :classes])]
            if self._setup.contact:
                planes.append(_probability(logits[:, classes:]))
            found.append(quantise(np.concatenate(planes, axis=1)))
        return np.concatenate(found)

    def _probability(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self._card.probabilities:
            return _probability(values / np.float32(self._card.temperature))
        return np.clip(values[:, 1:] if values.shape[1] == 2 else values, 0, 1)


def _probability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    classes = logits.shape[1]
    if classes > 2:
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
    difference = logits if classes == 1 else logits[:, 1:] - logits[:, :1]
    return np.asarray(1 / (1 + np.exp(-difference)), np.float32)

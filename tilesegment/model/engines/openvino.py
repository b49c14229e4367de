"""The OpenVINO engine for CPUs: raw tiles in, quantised probabilities out, all in one graph.

Torch is not imported: the network comes as a graph from `model.export`, and normalisation, sigmoid or
softmax and the quantising of probabilities are added to it here.
"""

from __future__ import annotations

import functools
import platform
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op

from tilesegment.model.engines import Setup
from tilesegment.model.export import graph_file
from tilesegment.model.store import ModelFile
from tilesegment.tiling.blend import FINE_MAX, Accumulator, Blender

# What is not in int8 in a quantised graph is computed as in fp32, on every CPU.
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
# Requests beyond the streams' own, so that none waits for Python.
_SPARE = 3
# Types of raw values that the graph reads as they are; others are converted before.
_NATIVE = ("uint8", "uint16", "int16", "float32")


@functools.cache
def native_bf16() -> bool:
    """Whether the CPU multiplies bf16 in hardware."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def fast_int8() -> bool:
    """Whether int8 is faster than floats: on x86, by AVX2 or better. Elsewhere OpenVINO does not say."""
    return platform.machine().lower() in ("x86_64", "amd64")


class OpenVinoPredictor:
    """A network on the CPU: `setup.streams` streams of one thread each, fed asynchronously."""

    def __init__(self, model: ModelFile, setup: Setup) -> None:
        fixed = None if model.graph is None else model.graph.batch
        self.batch = fixed or setup.batch or 1
        self.depth = setup.streams + _SPARE
        self._contact = setup.contact
        self.name = f"openvino {ov.__version__.split('-')[0]} cpu {setup.precision}"
        core = ov.Core()
        kind = "openvino-int8" if setup.precision == "int8" else "openvino"
        network = core.read_model(graph_file(model, kind, model.padded(setup.tile)))
        self._dtype = np.dtype(setup.dtype if setup.dtype in _NATIVE else "float32")
        graph = _with_ends(network, model, self.batch, self._dtype, setup)
        self._compiled = core.compile_model(
            graph,
            "CPU",
            {
                "NUM_STREAMS": setup.streams,
                "INFERENCE_NUM_THREADS": setup.streams,
                "INFERENCE_PRECISION_HINT": _HINTS[setup.precision],
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._free = [self._compiled.create_infer_request() for _ in range(self.depth)]

    def submit(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> _Request:
        """See `Predictor`. More than `depth` at a time are refused by the list of free requests."""
        request = self._free.pop()
        filled = len(values)
        if filled < self.batch:
            missing = [(0, self.batch - filled)]
            values = np.pad(values, [*missing, (0, 0), (0, 0), (0, 0)])
            valid = np.pad(valid, [*missing, (0, 0), (0, 0)])
        # The arrays must live until the result is there: the request reads them in place.
        inputs = (
            np.ascontiguousarray(values, self._dtype),
            np.ascontiguousarray(valid[:, None]).view(np.uint8),
        )
        request.start_async(list(inputs), share_inputs=True)
        return _Request(self, request, filled, inputs)

    def blender(self, weights: NDArray[np.uint32], width: int, top: int) -> Blender:
        """See `Predictor`."""
        channels = self._compiled.output(0).shape[1] - self._contact
        return Accumulator(weights, channels, width, top, self._contact)

    def give_back(self, request: Any) -> None:
        """A request may be used again."""
        self._free.append(request)


class _Request:
    """See `Pending`."""

    def __init__(self, owner: OpenVinoPredictor, request: Any, tiles: int, inputs: Any) -> None:
        self._owner, self._request, self._tiles, self._inputs = owner, request, tiles, inputs

    def result(self) -> NDArray[np.uint16]:
        self._request.wait()
        counts: NDArray[np.uint16] = self._request.get_output_tensor(0).data[: self._tiles].copy()
        self._owner.give_back(self._request)
        return counts

    def cancel(self) -> None:
        self._request.wait()
        self._owner.give_back(self._request)


def _with_ends(network: Any, model: ModelFile, batch: int, dtype: np.dtype[Any], setup: Setup) -> Any:
    """The network between raw tiles with their validity, and quantised probabilities: the arithmetic of
    `preprocess.normalise` before it, and of `blend.quantise` after it."""
    card = model.card
    bands, tile = len(card.bands), setup.tile
    padded = model.padded(tile)
    rows, cols = padded[0] - tile[0], padded[1] - tile[1]
    network.reshape([batch, bands, *padded])
    values = op.parameter([batch, bands, *tile], dtype, name="values")
    valid = op.parameter([batch, 1, *tile], np.uint8, name="valid")

    def by_band(numbers: Any) -> Any:
        return op.constant(np.asarray(numbers, np.float32).reshape(1, bands, 1, 1))

    low, high = setup.range.low, setup.range.high
    span = np.asarray(high, np.float32) - np.asarray(low, np.float32)
    x = op.convert(values, "f32")
    x = op.divide(op.subtract(x, by_band(low)), by_band(span))
    x = op.clamp(x, 0.0, 1.0)
    x = op.divide(op.subtract(x, by_band(card.mean)), by_band(card.std))
    x = op.multiply(x, op.convert(valid, "f32"))
    if rows or cols:
        begin, end = op.constant(np.zeros(4, np.int64)), op.constant(np.array([0, 0, rows, cols]))
        x = op.pad(x, begin, end, "constant", op.constant(np.float32(0)))
    old = network.get_parameters()[0]
    for reader in list(old.output(0).get_target_inputs()):
        reader.replace_source_output(x.output(0))
    logits = network.get_results()[0].input_value(0)
    if len(logits.get_partial_shape()) == 3:
        logits = op.unsqueeze(logits, 1).output(0)
    if rows or cols:
        logits = op.slice(logits, [0, 0], list(tile), [1, 1], [2, 3]).output(0)
    everything, classes = logits, len(card.classes)
    if card.contact:
        logits = op.slice(everything, [0], [classes], [1], [1]).output(0)
    if card.temperature != 1:
        logits = op.divide(logits, np.float32(card.temperature)).output(0)
    probability = _clipped(logits, classes) if card.probabilities else _probability(logits, classes)
    if setup.contact:
        contact = op.sigmoid(op.slice(everything, [classes], [classes + 1], [1], [1]))
        probability = op.concat([probability, contact], 1)
    counts = op.round(op.multiply(probability, np.float32(FINE_MAX)), "half_to_even")
    return ov.Model([op.convert(counts, "u16")], [values, valid], "tilesegment")


def _clipped(values: Any, classes: int) -> Any:
    return op.clamp(op.slice(values, [1], [2], [1], [1]) if classes == 2 else values, 0.0, 1.0)


def _probability(logits: Any, classes: int) -> Any:
    if classes == 1:
        return op.sigmoid(logits)
    if classes > 2:
        return op.softmax(logits, 1)
    background = op.slice(logits, [0], [1], [1], [1])
    return op.sigmoid(op.subtract(op.slice(logits, [1], [2], [1], [1]), background))

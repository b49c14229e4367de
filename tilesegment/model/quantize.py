"""int8: a network with weights and activations of eight bits, by NNCF's post-training quantisation.

In a process of its own, as for other graphs: what NNCF imports and prints stays there.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tilesegment.errors import ModelError
from tilesegment.model.export import all_half, graph_file
from tilesegment.model.store import Graph, ModelFile, find_model


def quantized_graph(model: ModelFile, tiles: NDArray[np.float32], kept: int) -> Graph:
    """A model's graph in int8, its ranges taken from normalised tiles (n, bands, rows, columns; multiples
    of 32). kept: how many of the first convolutions stay in floats.

    Convolutions of a single feature a channel (squeeze and excitation, image pooling) stay too: they cost
    nothing, and their ranges tell little. Raises ModelError where it cannot be done.
    """
    if importlib.util.find_spec("nncf") is None:
        raise ModelError("quantising takes NNCF; pip install 'tilesegment[int8]'")
    with tempfile.TemporaryDirectory(prefix="tilesegment-") as folder:
        source, target = Path(folder) / "tiles.npy", Path(folder) / "graph.xml"
        np.save(source, tiles)
        given = (model.source, str(source), str(target), str(kept))
        command = [sys.executable, "-m", "tilesegment.model.quantize", *given]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            words = done.stderr.strip().splitlines() or ["no message"]
            raise ModelError(f"{model.name}: cannot be quantised ({words[-1]})")
        return Graph(target.read_bytes(), target.with_suffix(".bin").read_bytes())


def _quantize(path: str, tiles: str, target: str, kept: str) -> None:
    import nncf
    import openvino

    model = find_model(path)
    samples = np.load(tiles)
    shape = [1, *samples.shape[1:]]
    network = openvino.Core().read_model(graph_file(model, "openvino", (shape[2], shape[3])))
    network.reshape(shape)
    convolutions = [node for node in network.get_ordered_ops() if "Convolution" in node.get_type_name()]
    floats = {node.get_friendly_name() for node in convolutions[: int(kept)]}
    floats |= {
        node.get_friendly_name() for node in convolutions if tuple(node.output(0).shape)[2:] == (1, 1)
    }
    found = nncf.quantize(
        network,
        nncf.Dataset([sample[None] for sample in samples]),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(samples),
        ignored_scope=nncf.IgnoredScope(names=sorted(floats)),
    )
    # Tiles of any size again.
    found.reshape([-1, shape[1], -1, -1])
    openvino.save_model(found, target, compress_to_fp16=all_half(model))


if __name__ == "__main__":
    _quantize(*sys.argv[1:])

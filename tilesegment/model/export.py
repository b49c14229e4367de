"""From a model file to a graph that an engine can run without torch, made once and kept.

Graphs lie in the cache under the sha256 of the weights and the version of the format; that of the bundled
model comes with the package. Torch is imported in a process of its own, whose memory goes back when the
graph is written.
"""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from pathlib import Path

from tilesegment.errors import ModelError
from tilesegment.model.cache import cached
from tilesegment.model.store import BUNDLED_FOLDER, ModelFile, find_model, read_int8

# Counts up when the way of exporting changes.
_FORMAT = 1
_SUFFIXES = {"openvino": ".xml", "openvino-int8": "-int8.xml", "onnx": ".onnx"}
_log = logging.getLogger("tilesegment")


def graph_file(model: ModelFile, kind: str, tile: tuple[int, int]) -> Path:
    """The graph of a model, from normalised tiles (n, bands, rows, columns) to logits. `kind` is
    `openvino`, whose graphs take tiles of any size, `openvino-int8`, which lies in the model's own file, or
    `onnx`, made for `tile` (rows, columns, multiples of 32) and n = 1. Made here where it does not exist
    yet, which takes up to a minute.

    Raises ModelError where the network cannot be converted.
    """
    if model.graph is not None:
        return Path(model.path)
    name = graph_name(model, kind, tile)
    shipped = BUNDLED_FOLDER / name
    if shipped.exists():
        return shipped

    def make(path: Path) -> None:
        if kind == "openvino-int8":
            graph = read_int8(model)
            if graph is None:
                raise ModelError(f"{model.name}: has no graph in int8")
            path.write_bytes(graph.xml)
            path.with_suffix(".bin").write_bytes(graph.weights)
            return
        if importlib.util.find_spec("torch") is None:
            raise ModelError(
                f"{model.name}: converting it for {kind} takes PyTorch; pip install 'tilesegment[torch]'"
            )
        _log.warning("%s: converting the model for %s, once", model.name, kind)
        export_graph(model, kind, tile, path)

    return cached(name, make)


def export_graph(model: ModelFile, kind: str, tile: tuple[int, int], path: Path) -> None:
    """Write the graph of a model to `path`, and its weights beside it where the format keeps them apart.
    Raises ModelError where it cannot be converted."""
    sizes = map(str, tile)
    command = [sys.executable, "-m", "tilesegment.model.export", model.source, kind, str(path), *sizes]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or ["no message"]
        raise ModelError(f"{model.name}: cannot be converted for {kind}; use --engine torch ({words[-1]})")


def graph_name(model: ModelFile, kind: str, tile: tuple[int, int]) -> str:
    """The file name of a model's graph."""
    size = f"-{tile[0]}x{tile[1]}" if kind == "onnx" else ""
    return f"{model.sha256[:16]}-{_FORMAT}{size}{_SUFFIXES[kind]}"


def _convert(source: str, kind: str, target: str, rows: str, cols: str) -> None:
    """In a process of its own: build the network and write its graph."""
    import warnings

    import torch

    from tilesegment.model.build import load_network

    warnings.simplefilter("ignore")
    model = find_model(source)
    network = load_network(model).requires_grad_(False)
    example = torch.zeros(1, len(model.card.bands), int(rows), int(cols))
    if kind == "onnx":
        torch.onnx.export(
            network,
            (example,),
            target,
            input_names=["tiles"],
            output_names=["logits"],
            external_data=False,
        )
        return
    import openvino

    graph = openvino.convert_model(network, example_input=example)
    # Half precision where the file's own weights are in it already: nothing is lost.
    openvino.save_model(graph, target, compress_to_fp16=all_half(model))


def all_half(model: ModelFile) -> bool:
    """Whether all weights of a file are in half precision."""
    from tilesegment.model.store import read_weights

    return all(str(array.dtype) == "float16" for array in read_weights(model).values())


if __name__ == "__main__":
    _convert(*sys.argv[1:])

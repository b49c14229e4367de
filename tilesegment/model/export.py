"""From a model file to a graph that an engine can run without torch, made once and kept.

Graphs lie in the user's cache folder (`TILESEGMENT_CACHE` names another), under the sha256 of the weights
and the version of the format; that of the bundled model comes with the package. Torch is imported in a
process of its own, whose memory goes back when the graph is written.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tilesegment.errors import ModelError
from tilesegment.model.store import BUNDLED_FOLDER, ModelFile, find_model

# Counts up when the way of exporting changes.
_FORMAT = 1
_SUFFIXES = {"openvino": ".xml", "onnx": ".onnx"}
_log = logging.getLogger("tilesegment")


def graph_file(model: ModelFile, kind: str, tile: tuple[int, int]) -> Path:
    """The graph of a model, from normalised tiles (n, bands, rows, columns) to logits. `kind` is
    `openvino`, whose graphs take tiles of any size, or `onnx`, made for `tile` (rows, columns, multiples
    of 32) and n = 1. Made here where it does not exist yet, which takes up to a minute.

    Raises ModelError where the network cannot be converted.
    """
    name = graph_name(model, kind, tile)
    shipped = BUNDLED_FOLDER / name
    if shipped.exists():
        return shipped
    path = cache_folder() / name
    if path.exists():
        return path
    with _alone(path.with_suffix(".lock")):
        if not path.exists():
            _log.warning("%s: converting the model for %s, once", model.name, kind)
            export_graph(model, kind, tile, path)
    return path


def export_graph(model: ModelFile, kind: str, tile: tuple[int, int], path: Path) -> None:
    """Write the graph of a model to `path`. Raises ModelError where it cannot be converted."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        sizes = map(str, tile)
        command = [sys.executable, "-m", "tilesegment.model.export", model.path, kind, str(made), *sizes]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            words = done.stderr.strip().splitlines() or ["no message"]
            raise ModelError(
                f"{model.name}: cannot be converted for {kind}; use --engine torch ({words[-1]})"
            )
        # The graph's own file last: where it stands, its weights stand too.
        for file in sorted(Path(folder).iterdir(), key=lambda f: f == made):
            os.replace(file, path.with_name(file.name))


def cache_folder() -> Path:
    """Where graphs are kept; a temporary folder where the user's own cannot be written to."""
    from platformdirs import user_cache_dir

    named = os.environ.get("TILESEGMENT_CACHE")
    for folder in (
        Path(named or user_cache_dir("tilesegment")),
        Path(tempfile.gettempdir()) / "tilesegment",
    ):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            _log.warning("%s: no cache there (%s)", folder, error.strerror)
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise ModelError("no folder to keep converted models in; name one by TILESEGMENT_CACHE")


def graph_name(model: ModelFile, kind: str, tile: tuple[int, int]) -> str:
    """The file name of a model's graph."""
    size = "" if kind == "openvino" else f"-{tile[0]}x{tile[1]}"
    return f"{model.sha256[:16]}-{_FORMAT}{size}{_SUFFIXES[kind]}"


@contextmanager
def _alone(path: Path, seconds: float = 600.0) -> Iterator[None]:
    """Hold a lock file, so that the workers of one machine convert a model once. One left by a dead process
    is taken over after ten minutes."""
    begin = time.monotonic()
    while True:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            if time.monotonic() - begin > seconds:
                break
            time.sleep(0.2)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


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
    openvino.save_model(graph, target, compress_to_fp16=_all_half(model))


def _all_half(model: ModelFile) -> bool:
    from tilesegment.model.store import read_weights

    return all(str(array.dtype) == "float16" for array in read_weights(model).values())


if __name__ == "__main__":
    _convert(*sys.argv[1:])

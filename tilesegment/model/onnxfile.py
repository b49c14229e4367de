"""Networks as ONNX files: ours, and those made for the QGIS plugin Deepness, whose metadata is their card.

Keys: https://qgis-plugin-deepness.readthedocs.io, "Adding metadata to ONNX model"; each value is JSON.
A file of ours has them too, and the whole card besides.
"""

from __future__ import annotations

import ast
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from tilesegment.errors import ModelError, SettingsError
from tilesegment.model.card import Card, ModelClass, default_colours
from tilesegment.model.store import CARD_KEY, GraphSize, ModelFile

_KIND = "Segmentor"
_KEYS = (
    *("model_type", "resolution", "tile_size", "tiles_size", "tiles_overlap", "seg_thresh"),
    *("standardization_mean", "standardization_std"),
)
# Of Deepness, where a file does not say.
_OVERLAP_PERCENT = 15
_TILE = 512
# What ends in probabilities, and what only moves values.
_ACTIVATIONS = frozenset({"Sigmoid", "HardSigmoid", "Softmax"})
_MOVING = frozenset(
    {
        "Identity",
        "Squeeze",
        "Unsqueeze",
        "Reshape",
        "Transpose",
        "Slice",
        "Gather",
        "Resize",
        "Cast",
        "Clip",
    }
)


def find_onnx(name: str, path: Path) -> ModelFile:
    """An ONNX file with one picture in and one map of classes out, and its card.

    Raises ModelError where it is another kind of network, or nothing says what its classes are.
    """
    stat = path.stat()
    return _found(name, str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _found(name: str, path: str, size: int, mtime_ns: int) -> ModelFile:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"--model {name}: reading an ONNX file takes more; pip install 'tilesegment[onnx]'"
        ) from error
    try:
        content = Path(path).read_bytes()
        graph = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ModelError(f"{path}: not an ONNX file") from error
    inputs, outputs = _shapes(graph.graph.input, graph), _shapes(graph.graph.output, graph)
    if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0]) != 4 or len(outputs[0]) not in (3, 4):
        raise ModelError(
            f"{path}: takes {inputs} and gives {outputs}; a network that takes (tiles, bands, rows, "
            "columns) and gives (tiles, classes, rows, columns) is expected"
        )
    batch, bands, rows, cols = inputs[0]
    channels = 1 if len(outputs[0]) == 3 else outputs[0][1]
    if bands is None or channels is None:
        raise ModelError(f"{path}: does not say how many bands it takes and how many classes it gives")
    if None not in outputs[0][-2:] and outputs[0][-2:] != [rows, cols]:
        raise ModelError(
            f"{path}: gives {outputs[0][-2]} x {outputs[0][-1]} pixels of {rows} x {cols}; as many as it "
            "takes are expected"
        )
    told = {entry.key: entry.value for entry in graph.metadata_props}
    if CARD_KEY in told:
        card = Card.from_json(told[CARD_KEY], path)
    else:
        card = _card(path, told, bands, channels, (rows, cols), _gives_probabilities(graph.graph))
    if len(card.bands) != bands or card.outputs != channels:
        told_of, has = f"{len(card.bands)} bands and {card.outputs} classes", f"{bands} and {channels}"
        raise ModelError(f"{path}: its card says {told_of}, and it has {has}")
    weights = sum(_count(array.dims) for array in graph.graph.initializer)
    return ModelFile(
        name, path, hashlib.sha256(content).hexdigest(), 4 * weights, card, False,
        GraphSize(batch, None if rows is None or cols is None else (rows, cols)),
    )  # fmt: skip


def _shapes(values: Any, graph: Any) -> list[list[int | None]]:
    """Of inputs or outputs; None for a size that may be any. Weights may be listed as inputs."""
    weights = {array.name for array in graph.graph.initializer}
    return [
        [dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim]
        for value in values
        if value.name not in weights
    ]


def _count(dims: Any) -> int:
    total = 1
    for size in dims:
        total *= int(size)
    return total


def _gives_probabilities(graph: Any) -> bool:
    """Whether the last thing that changes values is a sigmoid or softmax."""
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type in _MOVING:
        node = makers.get(node.input[0])
    return node is not None and node.op_type in _ACTIVATIONS


def _card(
    path: str,
    told: dict[str, str],
    bands: int,
    channels: int,
    size: tuple[int | None, int | None],
    probabilities: bool,
) -> Card:
    try:
        named = told.get("class_names", told.get("names"))
        values = {key: json.loads(told[key]) for key in told if key in _KEYS}
        names = _names(named, channels)
        kind = str(values.get("model_type", _KIND)).capitalize()
        if kind != _KIND:
            raise ModelError(f"{path}: a {kind.lower()}, and a network that segments is expected")
        if named is None and not values:
            raise ModelError(
                f"{path}: has neither a card nor the keys of Deepness (class_names, resolution, ...), so "
                "that nothing says what it sees"
            )
        tile = int(values.get("tile_size", values.get("tiles_size", _TILE)))
        rows, cols = size[0] or tile, size[1] or tile
        overlap = float(values.get("tiles_overlap", _OVERLAP_PERCENT)) / 100
        resolution = values.get("resolution")
        return Card(
            name=Path(path).stem,
            architecture="ONNX",
            encoder="",
            classes=tuple(map(ModelClass, names, default_colours(len(names) + 1)[2 - len(names[:2]) :])),
            bands=("red", "green", "blue") if bands == 3 else tuple(f"band_{k + 1}" for k in range(bands)),
            mean=_numbers(values.get("standardization_mean"), bands, 0.0),
            std=_numbers(values.get("standardization_std"), bands, 1.0),
            gsd=None if resolution is None else float(resolution) / 100,
            tile=(rows, cols),
            overlap=min(round(overlap * min(rows, cols)), min(rows, cols) // 2),
            threshold=float(values.get("seg_thresh", 0.5)),
            probabilities=probabilities,
        )
    except (ValueError, TypeError, SyntaxError, AttributeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path}: its metadata cannot be read ({error})") from error


def _names(text: str | None, channels: int) -> list[str]:
    """Of the classes, in order of the channels; of one channel's single class. Written as JSON, or by older
    tools as a Python literal."""
    if text is None:
        return ["foreground"] if channels == 1 else [f"class_{k}" for k in range(channels)]
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = ast.literal_eval(text)
    if isinstance(found, list):
        (found,) = found
    names = [str(found[key]).lstrip("_") for key in sorted(found, key=int)]
    if channels == 1:
        # The background has no channel of its own.
        return names[-1:]
    if len(names) != channels:
        raise ValueError(f"{len(names)} names for {channels} classes")
    return names


def _numbers(values: Any, count: int, default: float) -> tuple[float, ...]:
    return (default,) * count if values is None else tuple(float(value) for value in values)


def metadata(card: Card) -> dict[str, str]:
    """What a file says of its card: to Deepness, and whole."""
    names = {value: entry.name for value, entry in card.labels.items()}
    told: dict[str, Any] = {
        "model_type": _KIND,
        "class_names": names,
        "tile_size": card.tile[0],
        "tiles_overlap": round(100 * card.overlap / card.tile[0]),
        "standardization_mean": list(card.mean),
        "standardization_std": list(card.std),
        "seg_thresh": card.threshold,
    }
    if card.gsd is not None:
        told["resolution"] = card.gsd * 100
    return {**{key: json.dumps(value) for key, value in told.items()}, CARD_KEY: card.to_json()}

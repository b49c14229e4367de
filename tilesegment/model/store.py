"""Model files: safetensors with the card inside; nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilesegment.errors import ModelError
from tilesegment.model.card import Card, ModelClass, default_colours
from tilesegment.model.preprocess import padded_tile
from tilesegment.settings import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

BUNDLED_FOLDER = Path(__file__).parent / "weights"
# What a training run calls its best weights.
RUN_BEST = "best.safetensors"
CARD_KEY = "tilesegment_card"
# Arrays of bytes, beside the weights.
_INT8 = ("openvino_int8.xml", "openvino_int8.bin")


@dataclass(frozen=True)
class GraphSize:
    """What a network in an ONNX file takes: so many tiles at a time, of (rows, columns); None for any."""

    batch: int | None
    tile: tuple[int, int] | None


@dataclass(frozen=True)
class ModelFile:
    """A model found on disk: its weights, what identifies them, and its card.

    name: as the user gave it; path: the safetensors file; bytes: of its weights as float32; quantized:
    whether a graph in int8 lies in it too; graph: that it is an ONNX file, and what it takes.
    """

    name: str
    path: str
    sha256: str
    bytes: int
    card: Card
    quantized: bool = False
    graph: GraphSize | None = None

    def padded(self, tile: tuple[int, int]) -> tuple[int, int]:
        """The size that the network is given for tiles of (rows, columns). Raises ModelError for tiles that
        are larger than it takes."""
        fixed = None if self.graph is None else self.graph.tile
        if fixed is None:
            return padded_tile(tile)
        if tile[0] > fixed[0] or tile[1] > fixed[1]:
            raise ModelError(
                f"{self.name}: takes tiles of {fixed[0]} x {fixed[1]} pixels, not {tile[0]} x {tile[1]}"
            )
        return fixed

    @property
    def source(self) -> str:
        """What another process finds it by: a folder's weights have no card of their own."""
        path = Path(self.path)
        of_folder = path.name == "model.safetensors" and (path.parent / "config.json").is_file()
        return str(path.parent) if of_folder else self.path

    @property
    def bundled(self) -> bool:
        """Whether it is part of the package."""
        return Path(self.path).parent == BUNDLED_FOLDER


@dataclass(frozen=True)
class Graph:
    """A network as OpenVINO writes it: two files' content."""

    xml: bytes
    weights: bytes


def bundled_models() -> list[str]:
    """Names that `--model` takes without a file."""
    return sorted(path.stem for path in BUNDLED_FOLDER.glob("*.safetensors"))


def find_model(name: str) -> ModelFile:
    """The model called `name`: a bundled name, a safetensors or ONNX file, the folder of a training run
    (its best weights), one saved by segmentation-models-pytorch's `save_pretrained`, or a model to be
    downloaded (see `model.hub`). Reads no weights and does not import torch, but to download those of
    torchvision.

    Raises ModelError where there is none, or it is of another kind.
    """
    from tilesegment.model.hub import downloaded, is_elsewhere

    path = downloaded(name) if is_elsewhere(name) else Path(name)
    if (path / RUN_BEST).is_file():
        return _find_file(name, path / RUN_BEST)
    if path.is_dir():
        return _find_folder(name, path)
    if path.is_file():
        return _find_file(name, path)
    if name in bundled_models():
        return replace(_find_file(name, BUNDLED_FOLDER / f"{name}.safetensors"), name=name)
    raise ModelError(
        f"--model {name!r} is neither a file, a folder nor a bundled model "
        f"({', '.join(bundled_models())}){nearest(name, bundled_models())}"
    )


def find_models(names: Sequence[str]) -> tuple[ModelFile, ...]:
    """Models whose probabilities can be averaged: see `find_model`. Raises ModelError where there is none,
    or they do not agree on what they see and say."""
    if not names:
        raise ModelError("--model: name one")
    first, *others = models = tuple(map(find_model, names))
    for other in others:
        for what in ("classes", "bands", "dtype", "value_range", "gsd", "image_size"):
            mine, its = getattr(first.card, what), getattr(other.card, what)
            if what == "classes":
                mine, its = ([entry.name for entry in entries] for entries in (mine, its))
            if mine != its:
                raise ModelError(
                    f"--model {other.name}: its {what.replace('_', ' ')} ({its}) and those of {first.name} "
                    f"({mine}) differ; only like models can be averaged"
                )
    return models


def save_model(
    path: str | Path, weights: Mapping[str, NDArray[Any]], card: Card, int8: Graph | None = None
) -> None:
    """Write weights (names to arrays, any float dtype) and card, and a graph in int8, as one safetensors
    file."""
    from safetensors.numpy import save_file

    metadata = {CARD_KEY: card.to_json(), "format": "pt"}
    arrays = dict(weights)
    if int8 is not None:
        for key, content in zip(_INT8, (int8.xml, int8.weights), strict=True):
            arrays[key] = np.frombuffer(content, np.uint8)
    with usual_mode(Path(path)):
        save_file(arrays, str(path), metadata=metadata)


@contextmanager
def usual_mode(path: Path) -> Iterator[None]:
    """A file written inside gets the mode that any other new file would: safetensors gives its own to
    nobody but the owner."""
    path.touch()
    mode = path.stat().st_mode
    yield
    path.chmod(mode)


def read_weights(model: ModelFile) -> dict[str, NDArray[Any]]:
    """The weights of a model, by name, in the dtype they are stored in.

    Raises ModelError where the file is not the one that was found (another content) or is damaged.
    """
    return {name: array for name, array in _read_all(model).items() if name not in _INT8}


def read_int8(model: ModelFile) -> Graph | None:
    """The graph in int8 of a model that has one. Raises ModelError as `read_weights`."""
    if not model.quantized:
        return None
    arrays = _read_all(model)
    return Graph(*(arrays[key].tobytes() for key in _INT8))


def _read_all(model: ModelFile) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = model.path
    if model.graph is not None:
        raise ModelError(f"{path}: is an ONNX file; this takes the model it was made from (.safetensors)")
    if not Path(path).is_file():
        # A worker on another machine may have its packages elsewhere.
        path = str(BUNDLED_FOLDER / Path(path).name)
        if not Path(path).is_file():
            raise ModelError(f"{model.path}: no such file")
    if _sha256(path) != model.sha256:
        raise ModelError(f"{path}: its content is not what it was when the run began; start again")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{model.path}: damaged safetensors file ({error})") from error


def _find_file(name: str, path: Path) -> ModelFile:
    if path.suffix == ".onnx":
        from tilesegment.model.onnxfile import find_onnx

        return find_onnx(name, path)
    if path.suffix in (".pt", ".pth", ".ckpt", ".bin"):
        raise ModelError(f"{path}: {path.suffix} files have no card; save the model as safetensors")
    header = _read_header(path)
    text = header.get("__metadata__", {}).get(CARD_KEY)
    if text is None:
        raise ModelError(f"{path}: a safetensors file without a tilesegment card")
    card = Card.from_json(text, str(path))
    return _model_file(name, path, header, card)


def _find_folder(name: str, path: Path) -> ModelFile:
    config, weights = path / "config.json", path / "model.safetensors"
    if not config.is_file() or not weights.is_file():
        raise ModelError(f"{path}: a model folder holds config.json and model.safetensors; it does not")
    try:
        settings = json.loads(config.read_text())
        card = _card_of_folder(path, settings)
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{config}: not written by save_pretrained ({error!r})") from error
    return _model_file(name, weights, _read_header(weights), card)


def _card_of_folder(path: Path, settings: dict[str, Any]) -> Card:
    """What `save_pretrained` records, with ImageNet's statistics, as smp's own encoders expect."""
    count, bands = int(settings["classes"]), int(settings.get("in_channels", 3))
    names = ["background", "foreground"] if count == 2 else [f"class_{k}" for k in range(count)]
    given = {"_model_class", "encoder_name", "encoder_weights", "classes", "in_channels", "activation"}
    card = Card(
        name=path.name,
        options={key: value for key, value in settings.items() if key not in given},
        architecture=str(settings["_model_class"]),
        encoder=str(settings["encoder_name"]),
        classes=tuple(ModelClass(n, c) for n, c in zip(names, default_colours(count + 1), strict=False)),
    )
    if bands == 3:
        return card
    return replace(
        card,
        bands=tuple(f"band_{k + 1}" for k in range(bands)),
        mean=(0.0,) * bands,
        std=(1.0,) * bands,
    )


def _model_file(name: str, path: Path, header: dict[str, Any], card: Card) -> ModelFile:
    others = {"__metadata__", *_INT8}
    sizes = [math.prod(entry["shape"]) for key, entry in header.items() if key not in others]
    quantized = all(key in header for key in _INT8)
    return ModelFile(name, str(path.resolve()), _sha256(str(path)), 4 * sum(sizes), card, quantized)


def _read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file: eight bytes of length, little-endian, then the JSON
    (https://github.com/huggingface/safetensors#format)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, 100_000_000):
            raise ModelError(f"{path}: not a safetensors file")
        try:
            header = json.loads(file.read(length))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ModelError(f"{path}: not a safetensors file") from error
    if not isinstance(header, dict):
        raise ModelError(f"{path}: not a safetensors file")
    return header


@lru_cache(maxsize=8)
def _digest(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(path: str) -> str:
    stat = Path(path).stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)

"""Networks for other programs: normalised tiles in, probabilities of the classes out.

The graph ends in a softmax (or a sigmoid, for one channel) of what the network says over the card's
temperature. What lies between buildings (`contact`) is left out: no other program reads it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilesegment.errors import ModelError, SettingsError
from tilesegment.model.card import Card
from tilesegment.model.onnxfile import metadata
from tilesegment.model.preprocess import padded_tile
from tilesegment.model.store import CARD_KEY, ModelFile

if TYPE_CHECKING:
    import torch

# Endings of the files, by format.
FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torchscript": ".pt", "pt2": ".pt2"}
_CARD_FILE = "card.json"

# Probabilities (classes, rows, columns) of a normalised tile (bands, rows, columns).
Tiles = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def shared_card(card: Card, tile: tuple[int, int]) -> Card:
    """The card of a shared network."""
    return replace(
        card, contact=False, probabilities=True, temperature=1.0, tile=tile,
        overlap=min(card.overlap, min(tile) // 2),
    )  # fmt: skip


def write_shared(model: ModelFile, kind: str, tile: tuple[int, int], path: Path) -> Tiles:
    """Write a network to `path`, in a format of `FORMATS`, for tiles of (rows, columns); what it was
    written from, to be asked. OpenVINO's weights lie beside it, in a `.bin`.

    Raises ModelError where the network cannot be converted, SettingsError for a tile it cannot take.
    """
    import torch

    if padded_tile(tile) != tile:
        raise SettingsError(f"--tile {tile[0]} x {tile[1]}: use multiples of 32")
    card = shared_card(model.card, tile)
    network = _with_probabilities(model)
    example = torch.zeros(1, len(card.bands), *tile)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _WRITERS[kind](network, example, card, path)
        except (RuntimeError, TypeError, ValueError, ModuleNotFoundError) as error:
            words = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(f"{model.name}: cannot be written as {kind} ({words[0]})") from error
    return _asked(network)


def _asked(network: Any) -> Tiles:
    import torch

    def ask(tile: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            found: NDArray[np.float32] = network(torch.from_numpy(tile[None]))[0].numpy()
        return found

    return ask


def _with_probabilities(model: ModelFile) -> torch.nn.Module:
    import torch

    from tilesegment.model.build import load_network

    class Probabilities(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = load_network(model)
            self.classes, self.temperature = len(model.card.classes), model.card.temperature

        def forward(self, tiles: torch.Tensor) -> torch.Tensor:
            logits = self.network(tiles)[:, : self.classes] / self.temperature
            return torch.sigmoid(logits) if self.classes == 1 else torch.softmax(logits, 1)

    return Probabilities().eval().requires_grad_(False)


def _write_onnx(network: Any, example: Any, card: Card, path: Path) -> None:
    import onnx
    import torch

    program = torch.onnx.export(
        network, (example,), input_names=["tiles"], output_names=["probability"], external_data=False,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), verbose=False,
    )  # fmt: skip
    if program is None:
        raise RuntimeError("the exporter gave nothing")
    graph = program.model_proto
    for key, value in metadata(card).items():
        graph.metadata_props.append(onnx.StringStringEntryProto(key=key, value=value))
    onnx.checker.check_model(graph)
    path.write_bytes(graph.SerializeToString())


def _write_openvino(network: Any, example: Any, card: Card, path: Path) -> None:
    import openvino

    graph = openvino.convert_model(network, example_input=example)
    graph.reshape([-1, *example.shape[1:]])
    graph.inputs[0].set_names({"tiles"})
    graph.outputs[0].set_names({"probability"})
    graph.set_rt_info(card.to_json(), CARD_KEY)
    openvino.save_model(graph, path, compress_to_fp16=False)


def _write_torchscript(network: Any, example: Any, card: Card, path: Path) -> None:
    import torch

    traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(torch.jit.freeze(traced), str(path), _extra_files={_CARD_FILE: card.to_json()})


def _write_pt2(network: Any, example: Any, card: Card, path: Path) -> None:
    import torch

    # One tile would be taken for a size that is always one.
    program = torch.export.export(
        network, (example.repeat(2, 1, 1, 1),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    torch.export.save(program, path, extra_files={_CARD_FILE: card.to_json()})


_WRITERS: dict[str, Callable[[Any, Any, Card, Path], None]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "torchscript": _write_torchscript,
    "pt2": _write_pt2,
}


def read_shared(kind: str, path: Path) -> Tiles:
    """A written network, computed in fp32 by the program that its format is for."""
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda tile: np.asarray(session.run(None, {"tiles": tile[None]})[0][0], np.float32)
    if kind == "openvino":
        import openvino

        hint = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(path, "CPU", hint)
        return lambda tile: np.asarray(compiled(tile[None])[0][0], np.float32)
    import torch

    if kind == "torchscript":
        # Torch says of it that another format is to be preferred.
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        return _asked(torch.jit.load(str(path)))  # type: ignore[no-untyped-call]
    return _asked(torch.export.load(path).module())

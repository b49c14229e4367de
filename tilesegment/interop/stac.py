"""A model as an item of a STAC catalogue, with the extension for machine learning models (MLM).

Extension: https://github.com/stac-extensions/mlm, version 1.5.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from tilesegment.model.card import Card

_EXTENSIONS = [
    "https://stac-extensions.github.io/mlm/v1.5.2/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
]
# What the extension calls formats: framework, how the file was written, how it was compiled, media type.
_FORMATS: dict[str, tuple[str, str, str | None, str]] = {
    "onnx": ("ONNX", "torch.onnx.export", None, "application/octet-stream; framework=onnx"),
    "openvino": ("OpenVINO", "openvino.save_model", None, "application/xml; framework=openvino"),
    "torchscript": (
        "PyTorch", "torch.jit.save", "jit", "application/octet-stream; framework=pytorch; profile=script",
    ),
    "pt2": ("PyTorch", "torch.export.save", "aot", "application/zip; framework=pytorch; profile=export"),
}  # fmt: skip
_WORLD = (-180.0, -90.0, 180.0, 90.0)


def model_item(
    card: Card, kind: str, hrefs: Sequence[str], sha256: str, size: int, parameters: int, software: str
) -> dict[str, Any]:
    """The item of a shared network (see `model.sharing`). hrefs: of its file, and of its weights where they
    have one of their own, relative to the item; sha256, size: of the first in bytes; parameters: how many
    weights it has; software: that wrote it."""
    framework, artifact, compiled, media = _FORMATS[kind]
    left, bottom, right, top = _WORLD
    ring = [[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]]
    asset = {
        "href": hrefs[0],
        "type": media,
        "title": f"{card.name} as {kind}",
        "roles": ["mlm:model", "mlm:weights", "data"],
        "mlm:artifact_type": artifact,
        "file:size": size,
        # A multihash: sha2-256 of 32 bytes.
        "file:checksum": f"1220{sha256}",
    }
    if compiled is not None:
        asset["mlm:compile_method"] = compiled
    kind_of_weights = {"type": "application/octet-stream", "roles": ["mlm:weights", "data"]}
    weights = {"weights": {"href": hrefs[1], **kind_of_weights}} if len(hrefs) > 1 else {}
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": _EXTENSIONS,
        "id": f"{card.name}-{kind}",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": list(_WORLD),
        "properties": {
            "datetime": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "description": " ".join(card.data) or card.name,
            "license": "other",
            "tilesegment:licence": card.license,
            "tilesegment:credits": list(card.credits),
            "tilesegment:software": software,
            "mlm:name": card.name,
            "mlm:architecture": " / ".join(filter(None, (card.architecture, card.encoder))),
            "mlm:tasks": ["semantic-segmentation"],
            "mlm:framework": framework,
            "mlm:total_parameters": parameters,
            "mlm:pretrained": True,
            "mlm:input": [_input(card)],
            "mlm:output": [_output(card)],
            # What the input's bands are called has to be known.
            "bands": [{"name": name} for name in card.bands],
            **({} if card.gsd is None else {"gsd": card.gsd}),
        },
        "links": [],
        "assets": {"model": asset, **weights},
    }


def _input(card: Card) -> dict[str, Any]:
    low, high = card.value_range
    span = high - low
    scaling = [
        {"type": "z-score", "mean": low + mean * span, "stddev": std * span}
        for mean, std in zip(card.mean, card.std, strict=True)
    ]
    return {
        "name": "tiles",
        "bands": list(card.bands),
        "input": {
            "shape": [-1, len(card.bands), *card.tile],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "value_scaling": scaling,
        "resize_type": None,
        "description": f"Pixels of {card.dtype}, {low:g} to {high:g}; where there are none: 0, scaled.",
    }


def _output(card: Card) -> dict[str, Any]:
    names = [entry.name for entry in card.classes]
    classes = [
        {"value": value, "name": name, "description": name}
        for value, name in enumerate(names, start=1 if len(names) == 1 else 0)
    ]
    return {
        "name": "probability",
        "bands": [],
        "tasks": ["semantic-segmentation"],
        "result": {
            "shape": [-1, len(names), *card.tile],
            "dim_order": ["batch", "class", "height", "width"],
            "data_type": "float32",
        },
        "classification:classes": classes,
    }

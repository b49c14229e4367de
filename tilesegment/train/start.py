"""What a training begins with: the network, its card, and whether the two can do what is asked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from tilesegment.errors import ModelError, SettingsError
from tilesegment.model.build import build_network, load_weights, padded_logits
from tilesegment.model.card import Card
from tilesegment.model.pretrained import packaged_weights, start_encoder
from tilesegment.model.store import find_model
from tilesegment.train.config import TrainConfig


def changes_from(model: str | os.PathLike[str]) -> list[str]:
    """Changes of a configuration (`key=value`) that go on with a trained model on data of one's own: its
    network, pixel size and normalisation, and rates low enough to keep what it knows, the encoder's most of
    all. Whatever is set besides comes after them. Raises ModelError where there is no such model."""
    card = find_model(os.fspath(model)).card
    found: dict[str, object] = {
        "model.start": os.fspath(model),
        "model.architecture": card.architecture,
        "model.encoder": card.encoder,
        "model.encoder_weights": None,
        "model.options": card.options,
        "model.contact": card.contact,
        "optimizer": {"name": "AdamW", "lr": 0.0002, "weight_decay": 0.01},
        # Pictures of one place would bend what normalisation knows of many.
        "freeze": ["statistics"],
        # From there to nothing, in as many epochs as there are.
        "scheduler": {"name": "CosineAnnealingLR"},
        "epochs": 30,
        "batch": 8,
        "patience": 8,
        "watch": "iou",
        "warmup": 1.0,
        "ema": 0.98,
        "card.threshold": card.threshold,
        "card.overlap": card.overlap,
    }
    found["loss.contact"] = 0.15 if card.contact else 0.0
    if not card.architecture.startswith("torchvision."):
        found["encoder_rate"] = 0.1
    if card.gsd is not None:
        # Aerial work is learnt at the scale that it is predicted at.
        found |= {"data.gsd": card.gsd, "data.fit": "crop", "card.tile": list(card.tile)}
    return [f"{key}={json.dumps(value)}" for key, value in found.items()]


def start_network(config: TrainConfig, card: Card, note: Callable[[str], None]) -> tuple[nn.Module, Card]:
    """The network that training begins with, and its card. Raises ModelError where weights cannot be had,
    SettingsError where it cannot take pictures of the size that is asked for."""
    network, card = _started(config, card, note)
    check_forward(network, card, config.data.size)
    return network, card


def _started(config: TrainConfig, card: Card, note: Callable[[str], None]) -> tuple[nn.Module, Card]:
    """COCO's start brings torchvision's own architecture with it."""
    wanted = config.model
    if wanted.start == "coco":
        own = replace(card, architecture="torchvision.deeplabv3_resnet101", encoder="resnet101", options={})
        return build_network(own, "coco"), own
    if wanted.start is None:
        return _from_encoder(wanted.encoder_weights, card, note), card
    start = find_model(str(wanted.start))
    network = build_network(card)
    taken, total = load_weights(network, start)
    # Another head is what starting is for; where less than half fits, the file is of another network.
    if 2 * taken < total:
        raise ModelError(
            f"model.start: {taken} of {total} weights of {start.name} ({start.card.architecture}/"
            f"{start.card.encoder}) fit {card.architecture}/{card.encoder}; set these to match"
        )
    if taken < total:
        note(f"{taken} of {total} weights are those of {start.name}; the others do not fit and start anew")
    # Whom its makers credited is still to be credited.
    credits = tuple(dict.fromkeys([*start.card.credits, *card.credits]))
    data = tuple(dict.fromkeys([*start.card.data, *card.data]))
    return network, replace(card, credits=credits, data=data, license=card.license or start.card.license)


def check_forward(network: nn.Module, card: Card, size: tuple[int, int]) -> None:
    """Raises SettingsError where a network cannot take pictures of a size, or answers with another: some
    are built for one size, or halve pictures more often than these can be."""
    rows, cols = size
    tiles = torch.zeros(2, len(card.bands), rows, cols)
    name = f"{card.architecture}/{card.encoder}"
    try:
        with torch.inference_mode():
            shape = padded_logits(network.eval(), tiles).shape
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SettingsError(
            f"data.size: {name} cannot take pictures of {rows} x {cols} ({reason})"
        ) from error
    if shape != (2, card.outputs, rows, cols):
        raise SettingsError(f"data.size: {name} answers {rows} x {cols} pictures with {tuple(shape)}")


def _from_encoder(weights: str | None, card: Card, note: Callable[[str], None]) -> nn.Module:
    """A network whose encoder starts from `imagenet` weights, a file of weights, or (None) from nothing.

    An installed package of ImageNet weights is asked before the hub, which may be out of reach."""
    packaged = packaged_weights(card.encoder) if weights == "imagenet" else None
    if weights is None or (weights == "imagenet" and packaged is None):
        if weights is not None:
            note(
                f"fetching the imagenet weights of {card.encoder}, which takes minutes where no hub answers"
            )
        return build_network(card, weights)
    network = build_network(card)
    if not isinstance(network.encoder, nn.Module):
        raise ModelError(f"model.encoder_weights: {card.architecture} has no encoder of its own")
    path = packaged or Path(str(weights))
    taken, total = start_encoder(network.encoder, path)
    note(f"{taken} of {total} weights of the encoder are those of {path.name}")
    return network

"""Networks: any architecture and encoder of segmentation-models-pytorch, built from a card."""

from __future__ import annotations

from typing import Any

import torch

from tilesegment.errors import ModelError
from tilesegment.model.card import Card
from tilesegment.model.store import ModelFile, read_weights


def build_network(card: Card, encoder_weights: str | None = None) -> torch.nn.Module:
    """An untrained network, or one whose encoder starts from published weights (`imagenet`).

    Raises ModelError for an unknown architecture or encoder, or where the weights cannot be had.
    """
    import segmentation_models_pytorch as smp

    options: dict[str, Any] = {
        **card.options,
        "in_channels": len(card.bands),
        "classes": len(card.classes),
    }
    try:
        network = smp.create_model(card.architecture, card.encoder, encoder_weights, **options)
    except KeyError as error:
        raise ModelError(f"no such architecture or encoder: {error.args[0]}") from error
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        if encoder_weights is None:
            raise ModelError(f"cannot build {card.architecture}/{card.encoder}: {error}") from error
        raise ModelError(
            f"the {encoder_weights} weights of {card.encoder} cannot be loaded; go online once, or set "
            f"encoder_weights to null ({str(error).splitlines()[0]})"
        ) from error
    if not isinstance(network, torch.nn.Module):
        raise ModelError(f"{card.architecture} is not a network")
    return network


def load_network(model: ModelFile) -> torch.nn.Module:
    """The trained network of a model file, in float32 and in evaluation mode.

    Raises ModelError where the weights do not belong to the card's architecture.
    """
    network = build_network(model.card)
    state = {name: torch.from_numpy(array).float() for name, array in read_weights(model).items()}
    # Not strict: smp then also reports weights of another size as missing, and does not raise.
    result = network.load_state_dict(state, strict=False)
    # A counter of training steps that evaluation never reads; compact files leave it out.
    missing = [key for key in result.missing_keys if not key.endswith("num_batches_tracked")]
    if missing or result.unexpected_keys:
        raise ModelError(
            f"{model.path}: {len(missing)} weights are missing or of another size and "
            f"{len(result.unexpected_keys)} unknown "
            f"for {model.card.architecture}/{model.card.encoder}, the first "
            f"{[*missing, *result.unexpected_keys][0]!r}"
        )
    return network.eval()

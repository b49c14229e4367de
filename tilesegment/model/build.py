"""Networks: any architecture and encoder of segmentation-models-pytorch, or one of torchvision's
segmentation models, built from a card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tilesegment.errors import ModelError
from tilesegment.model.anywhere import answer_alike_anywhere
from tilesegment.model.card import Card
from tilesegment.model.preprocess import padded_tile
from tilesegment.model.pretrained import package_hint
from tilesegment.model.store import ModelFile, read_weights

_TORCHVISION = "torchvision."


def build_network(card: Card, encoder_weights: str | None = None) -> torch.nn.Module:
    """An untrained network, or one whose encoder starts from published weights (`imagenet`, from where
    segmentation-models-pytorch has them).

    An architecture `torchvision.NAME` is torchvision's: its DeepLabV3 dilates other layers than smp's, so
    that weights of one do not fit the other although their shapes do. It can start from `coco`, all of it
    but the last layers. Among a card's options, `pooling_window` is ours (see `model.anywhere`).

    Raises ModelError for an unknown architecture or encoder, or where the weights cannot be had.
    """
    if card.architecture.startswith(_TORCHVISION):
        return _TorchvisionNetwork(card, encoder_weights)
    import segmentation_models_pytorch as smp

    options: dict[str, Any] = {**card.options, "in_channels": len(card.bands), "classes": card.outputs}
    window = options.pop("pooling_window", None)
    try:
        network = smp.create_model(card.architecture, card.encoder, encoder_weights, **options)
    except KeyError as error:
        raise ModelError(f"no such architecture or encoder: {error.args[0]}") from error
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        if encoder_weights is None:
            raise ModelError(f"cannot build {card.architecture}/{card.encoder}: {error}") from error
        raise ModelError(
            f"the {encoder_weights} weights of {card.encoder} cannot be loaded; go online once, "
            f"{package_hint(card.encoder)}or set model.encoder_weights to a file of them or to null "
            f"({str(error).splitlines()[0]})"
        ) from error
    if not isinstance(network, torch.nn.Module):
        raise ModelError(f"{card.architecture} is not a network")
    if window is not None:
        answer_alike_anywhere(network, window)
    return network


class _TorchvisionNetwork(torch.nn.Module):
    """One of torchvision's segmentation models, with logits alone as its output."""

    def __init__(self, card: Card, weights: str | None) -> None:
        super().__init__()
        from torchvision.models import get_model, segmentation

        name = card.architecture.removeprefix(_TORCHVISION)
        if name not in vars(segmentation) or len(card.bands) != 3:
            raise ModelError(f"torchvision has no segmentation model {name!r} for {len(card.bands)} bands")
        classes = card.outputs
        self.model = get_model(
            name, weights=None, weights_backbone=None, num_classes=classes, aux_loss=False
        )
        if weights is not None:
            self._start_from(name, weights)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """(n, bands, rows, columns) to (n, classes, rows, columns)."""
        logits: torch.Tensor = self.model(tiles)["out"]
        return logits

    def _start_from(self, name: str, weights: str) -> None:
        from torchvision.models import get_model_weights

        known = {entry.name.lower().split("_")[0]: entry for entry in get_model_weights(name)}
        if weights not in known:
            raise ModelError(f"torchvision has no {weights!r} weights of {name}")
        try:
            state = known[weights].get_state_dict(progress=False)
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(
                f"torchvision's {weights} weights of {name} cannot be had ({reason}); go online once, or "
                "set model.start to a model file or to null"
            ) from error
        self.model.load_state_dict(_fitting(self.model, state), strict=False)


def padded_logits(network: torch.nn.Module, tiles: torch.Tensor) -> torch.Tensor:
    """Logits (n, classes, rows, columns) of tiles (n, bands, rows, columns) of any size, which a network
    sees padded with zeros, the mean, in training as in prediction."""
    height, width = tiles.shape[-2:]
    rows, cols = padded_tile((height, width))
    if (rows, cols) != (height, width):
        tiles = torch.nn.functional.pad(tiles, (0, cols - width, 0, rows - height))
    logits: torch.Tensor = network(tiles.contiguous(memory_format=torch.channels_last))
    return logits[..., :height, :width]


def load_weights(network: torch.nn.Module, model: ModelFile) -> tuple[int, int]:
    """Put those weights of a model file into a network that fit it by name and shape: (how many, of how
    many)."""
    state = {name: torch.from_numpy(array).float() for name, array in read_weights(model).items()}
    fitting = _fitting(network, state)
    network.load_state_dict(fitting, strict=False)
    return len(fitting), sum(values.is_floating_point() for values in network.state_dict().values())


def _fitting(network: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    own = network.state_dict()
    return {
        name: values for name, values in state.items() if name in own and own[name].shape == values.shape
    }


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

"""Styles of other pictures: the statistics of early features are mixed between the pictures of a batch, so
that a network leans less on the colours and the sharpness of the places that it is trained on (MixStyle,
Zhou et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tilesegment.errors import SettingsError

# Of the paper: the first two of the encoder's features, and shares near 0 or 1.
_FEATURES = (1, 2)
_ALPHA = 0.1


def mix_styles(network: nn.Module, share: float) -> None:
    """From now on, while the network trains, the styles of this share of its batches are mixed.

    Raises SettingsError for a network of which no early features are known.
    """
    found = _modules_of(getattr(network, "encoder", None)) if share else []
    if share and not found:
        raise SettingsError("mixstyle: nothing is known of this network's early features; leave it out")
    for module in found:
        module.register_forward_hook(_hook(share))


def mixed(features: Tensor, shares: Tensor, order: Tensor) -> Tensor:
    """Features (pictures, channels, rows, columns) with other means and deviations by picture and channel:
    these shares (pictures,) of their own, the rest of the pictures in that order."""
    values = features.float()
    mean = values.mean(dim=(2, 3), keepdim=True).detach()
    deviation = (values.var(dim=(2, 3), keepdim=True).detach() + 1e-6).sqrt()
    own = shares[:, None, None, None].to(values)
    new_mean = own * mean + (1 - own) * mean[order]
    new_deviation = own * deviation + (1 - own) * deviation[order]
    return ((values - mean) / deviation * new_deviation + new_mean).to(features.dtype)


def _hook(share: float) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
    def hook(module: nn.Module, given: Any, features: Tensor) -> Tensor | None:
        if not module.training or len(features) < 2 or float(torch.rand(())) >= share:
            return None
        shares = torch.distributions.Beta(_ALPHA, _ALPHA).sample((len(features),))
        return mixed(features, shares, torch.randperm(len(features), device=features.device))

    return hook


def _modules_of(encoder: nn.Module | None) -> list[nn.Module]:
    """Those whose answers are an encoder's early features: found by a pass of nothing."""
    if encoder is None:
        return []
    # The answers are kept: another one must not be found at the address of a dead one.
    answers: list[tuple[Tensor, nn.Module]] = []

    def note(module: nn.Module, given: Any, found: Any) -> None:
        if isinstance(found, Tensor) and not isinstance(module, nn.Identity):
            answers.append((found, module))

    handles = [module.register_forward_hook(note) for module in encoder.modules() if module is not encoder]
    was, first = encoder.training, next(encoder.parameters())
    bands = int(getattr(encoder, "in_channels", 3) or 3)
    try:
        with torch.inference_mode():
            features = encoder.eval()(torch.zeros((1, bands, 64, 64), device=first.device))
    finally:
        encoder.train(was)
        for handle in handles:
            handle.remove()
    known = {id(answer): module for answer, module in answers}
    return [known[id(features[at])] for at in _FEATURES if id(features[at]) in known]

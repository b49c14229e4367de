"""Styles mixed between the pictures of a batch, while a network trains."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision

from tilesegment.errors import SettingsError
from tilesegment.train.config import load_config
from tilesegment.train.mixstyle import mix_styles, mixed


def moments(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return features.mean(dim=(2, 3)), features.var(dim=(2, 3)).sqrt()


def test_the_mean_and_the_deviation_are_mixed_by_their_shares() -> None:
    torch.manual_seed(3)
    features = torch.randn(3, 4, 16, 16) * torch.rand(3, 4, 1, 1) * 5 + torch.randn(3, 4, 1, 1)
    order = torch.tensor([1, 2, 0])
    shares = torch.tensor([1.0, 0.0, 0.25])
    found = mixed(features, shares, order)
    means, deviations = moments(features)
    own = shares[:, None]
    for got, before in zip(moments(found), (means, deviations), strict=True):
        torch.testing.assert_close(got, own * before + (1 - own) * before[order], rtol=1e-4, atol=1e-4)
    # What is seen stays: only its scale and its height change.
    torch.testing.assert_close(found[0], features[0], rtol=1e-4, atol=1e-4)
    shapes = [(values - values.mean((-2, -1), True)).flatten(1) for values in (found[1], features[1])]
    assert torch.nn.functional.cosine_similarity(*shapes).min() > 0.9999
    assert mixed(features.bfloat16(), shares, order).dtype == torch.bfloat16


@pytest.mark.parametrize("encoder", ["timm-tf_efficientnet_lite0", "resnet18", "mobilenet_v2"])
def test_early_features_and_only_in_training(encoder: str) -> None:
    network = smp.Unet(encoder, encoder_weights=None)
    plain = [module for module in network.modules() if module._forward_hooks]
    assert not plain
    mix_styles(network, 1.0)
    hooked = [module for module in network.modules() if module._forward_hooks]
    assert len(hooked) == 2
    pictures = torch.rand(4, 3, 64, 64)
    seen: list[torch.Tensor] = []
    hooked[1].register_forward_hook(lambda module, given, found: seen.append(found.detach()))

    def stage(seed: int, count: int = 4) -> torch.Tensor:
        torch.manual_seed(seed)
        network.encoder(pictures[:count])
        return seen[-1]

    network.eval()
    with torch.no_grad():
        quiet = stage(0)
        assert torch.equal(quiet, stage(1))
        # The second of the encoder's features is a quarter as wide as the picture.
        assert quiet.shape[-1] == 16
        network.train()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.0
        first, again, other = stage(5), stage(5), stage(6)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_share_of_the_batches() -> None:
    layer = torch.nn.Conv2d(1, 1, 1)

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = Encoder()

    class Encoder(torch.nn.Module):
        in_channels = 1

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = layer, torch.nn.Conv2d(1, 1, 1)

        def forward(self, values: torch.Tensor) -> list[torch.Tensor]:
            first = self.first(values)
            return [values, first, self.second(first)]

    network = Network()
    mix_styles(network, 0.3)
    pictures = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        network.eval()
        plain = network.encoder(pictures)[1]
        network.train()
        torch.manual_seed(0)
        changed = sum(not torch.allclose(network.encoder(pictures)[1], plain) for _ in range(1000))
        # Half of all orders of two leave each where it is.
        assert 110 < changed < 190
        assert torch.equal(network.encoder(pictures[:1])[1], layer(pictures[:1]))


def test_a_network_without_early_features() -> None:
    network = torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None)
    mix_styles(network, 0.0)
    with pytest.raises(SettingsError, match="mixstyle: nothing is known of this network's early features"):
        mix_styles(network, 0.5)


@pytest.mark.parametrize("share", ["-0.1", "1.5"])
def test_shares_that_are_none(share: str) -> None:
    assert load_config("roofs", ["mixstyle=1"]).mixstyle == 1.0
    with pytest.raises(SettingsError, match=rf"mixstyle {share} is not between 0 and 1"):
        load_config("roofs", [f"mixstyle={share}"])

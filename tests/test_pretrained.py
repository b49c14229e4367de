"""Starting from published weights, and networks whose answer does not depend on the tile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tilesegment.errors import ModelError
from tilesegment.model import pretrained
from tilesegment.model.anywhere import WindowAverage, answer_alike_anywhere
from tilesegment.model.build import build_network
from tilesegment.model.card import IMAGENET_MEAN, Card, ModelClass
from tilesegment.model.pretrained import normalisation, start_encoder

CLASSES = (ModelClass("background", (0, 0, 0)), ModelClass("roof", (1, 1, 1)))
LITE = "timm-tf_efficientnet_lite0"


def card(encoder: str = "resnet18", **fields: object) -> Card:
    return Card("x", "DeepLabV3Plus", encoder, CLASSES, **fields)  # type: ignore[arg-type]


def numbered(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A state of a network's shapes, every weight another number."""
    return {
        name: torch.full_like(values, 1 + k / 1000)
        for k, (name, values) in enumerate(network.state_dict().items())
        if values.is_floating_point()
    }


class TestEncoderWeights:
    @pytest.mark.parametrize("prefix", ["", "encoder.", "module.encoder.", "model.backbone."])
    @pytest.mark.parametrize("ending", ["pth", "safetensors"])
    def test_any_wrappers_names_fit(self, tmp_path: Path, prefix: str, ending: str) -> None:
        encoder = build_network(card()).encoder
        wanted = numbered(encoder)
        state = {prefix + name: values for name, values in wanted.items()}
        state |= {"fc.weight": torch.zeros(3, 3)}
        path = tmp_path / f"w.{ending}"
        save_file(state, path) if ending == "safetensors" else torch.save(state, path)
        assert start_encoder(encoder, path) == (len(wanted), len(wanted))
        for name, values in wanted.items():
            torch.testing.assert_close(encoder.state_dict()[name], values, rtol=0, atol=0)

    def test_timms_wrapped_encoders(self, tmp_path: Path) -> None:
        encoder = build_network(card("tu-resnet18")).encoder
        wanted = numbered(encoder)
        assert all(name.startswith("model.") for name in wanted)
        torch.save(
            {"state_dict": {n.removeprefix("model."): v for n, v in wanted.items()}}, tmp_path / "w.pt"
        )
        assert start_encoder(encoder, tmp_path / "w.pt")[0] == len(wanted)

    def test_names_of_efficientnet_pytorch(self, tmp_path: Path) -> None:
        """Blocks are counted through there, and by stage in timm; their order is the same."""
        encoder = build_network(card(LITE)).encoder
        wanted = numbered(encoder)
        state, blocks = {}, []
        for name, values in wanted.items():
            parts = name.split(".")
            if parts[0] == "blocks":
                if (block := tuple(parts[1:3])) not in blocks:
                    blocks.append(block)
                table = pretrained._PLAIN if block == ("0", "0") else pretrained._EXPANDING
                theirs = next(k for k, v in table.items() if v == parts[3])
                state[f"_blocks.{blocks.index(block)}.{theirs}.{parts[4]}"] = values
            else:
                theirs = next(k for k, v in pretrained._OUTSIDE.items() if v == parts[0])
                state[f"{theirs}.{parts[1]}"] = values
        torch.save(state, tmp_path / "w.pth")
        assert start_encoder(encoder, tmp_path / "w.pth") == (245, 245)
        for name, values in wanted.items():
            torch.testing.assert_close(encoder.state_dict()[name], values, rtol=0, atol=0)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, "no such file of encoder weights"),
            (b"rubbish", "cannot be read as weights"),
            ({"a": 1}, "holds no weights"),
            ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "1 of the encoder's 100 weights are in it"),
            (torch.nn.ReLU(), "cannot be read as weights"),
        ],
    )
    def test_other_files_are_one_line(self, tmp_path: Path, content: object, words: str) -> None:
        path = tmp_path / "w.pth"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            # A module is what an unpickler would call something for: it is refused.
            torch.save(content, path)
        with pytest.raises(ModelError, match=words) as caught:
            start_encoder(build_network(card()).encoder, path)
        assert "\n" not in str(caught.value)

    def test_a_package_is_found_and_says_its_normalisation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
        assert pretrained.packaged_weights(LITE) is None
        assert pretrained.packaged_weights("resnet18") is None
        mean, std = normalisation(LITE) or ((), ())
        np.testing.assert_allclose((np.array([0, 127, 255]) / 255 - mean) / std, [-127 / 128, 0, 1])
        assert normalisation("resnet18") is None


class TestWindowPooling:
    def test_it_is_the_mean_of_what_lies_inside(self) -> None:
        features = torch.randn(2, 3, 9, 11, dtype=torch.float64)
        found = WindowAverage(5)(features)
        for row in range(9):
            for col in range(11):
                inside = features[..., max(0, row - 2) : row + 3, max(0, col - 2) : col + 3]
                torch.testing.assert_close(found[..., row, col], inside.mean(dim=(2, 3)))

    def test_a_wide_window_is_the_image_pooling(self) -> None:
        """A window that reaches over everything, and corners aligned again: the network of smp."""
        torch.manual_seed(0)
        network = build_network(card()).eval()
        windowed = build_network(card(options={"pooling_window": 99})).eval()
        windowed.load_state_dict(network.state_dict())
        for module in windowed.modules():
            if isinstance(module, torch.nn.Upsample):
                module.align_corners = True
        tile = torch.randn(1, 3, 96, 96)
        with torch.inference_mode():
            torch.testing.assert_close(windowed(tile), network(tile), rtol=1e-4, atol=1e-4)

    def test_the_answer_does_not_depend_on_the_tile(self) -> None:
        """Beyond a halo from the rims where they differ, a place is answered alike in tiles of 512 and 768;
        by smp's own network it is not."""
        torch.manual_seed(1)
        scene = torch.rand(1, 3, 768, 768)
        differences = []
        for options in ({}, {"pooling_window": 15}):
            options |= {"decoder_atrous_rates": [3, 6, 9], "decoder_channels": 32}
            network = build_network(card(options=options)).eval()
            with torch.inference_mode():
                small, large = network(scene[..., :512, :512])[0, 0], network(scene)[0, 0]
            # They share the left and the upper rim; 352 pixels lie between here and the others.
            differences.append(float((small - large[:512, :512])[:160, :160].abs().max() / large.std()))
        assert differences[1] < 1e-3 < 0.1 < differences[0]

    @pytest.mark.parametrize("window", [0, 4, -3, "15"])
    def test_odd_numbers_alone(self, window: object) -> None:
        with pytest.raises(ModelError, match="is no odd number of features"):
            build_network(card(options={"pooling_window": window}))

    def test_other_networks_have_none(self) -> None:
        with pytest.raises(ModelError, match="has no image pooling"):
            answer_alike_anywhere(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)), 3)


def test_a_contact_channel_comes_after_the_classes() -> None:
    network = build_network(card(contact=True)).eval()
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 3, 64, 64)
    assert card(contact=True).outputs == 3
    assert card().mean == IMAGENET_MEAN

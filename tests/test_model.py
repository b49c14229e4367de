from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fakes import fake_card
from tilesegment.errors import ModelError
from tilesegment.model.build import build_network, load_network
from tilesegment.model.card import Card, ModelClass
from tilesegment.model.preprocess import ValueRange, normalise
from tilesegment.model.store import find_model, read_weights, save_model


def small_card(classes: int = 2) -> Card:
    names = tuple(ModelClass(f"c{k}", (k, k, k)) for k in range(classes))
    # Few layers: converting them takes long.
    options = {"encoder_depth": 3, "decoder_channels": [16, 8, 4]}
    return Card("small", "Unet", "resnet18", names, options=options, tile=(64, 64), overlap=8)


@pytest.fixture
def saved(tmp_path: Path) -> str:
    torch.manual_seed(0)
    network = build_network(small_card())
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    save_model(tmp_path / "m.safetensors", weights, small_card())
    return str(tmp_path / "m.safetensors")


def test_cards_survive_the_file() -> None:
    card = fake_card(3, options={"decoder_channels": [1, 2]}, metrics={"iou": 0.5}, image_size=(10, 20))
    assert Card.from_json(card.to_json(), "x") == card


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 99}, "card version 99, this program reads 1"),
        ({"overlapp": 3}, "did you mean 'overlap'"),
        ({"mean": [0.5]}, "3 bands, but 1 means"),
        ({"classes": []}, "no classes"),
        ({"threshold": 1}, "not between 0 and 1"),
        ({"temperature": 0}, "temperature 0 is not above 0"),
        ({"std": [0, 1, 1]}, "is empty"),
        ({"classes": [{"name": "x"}]}, "cannot be read"),
    ],
)
def test_wrong_cards_are_refused(change: dict[str, object], words: str) -> None:
    raw = {**json.loads(fake_card().to_json()), **change}
    with pytest.raises(ModelError, match=words):
        Card.from_json(json.dumps(raw), "x.safetensors")


def test_the_bundled_model_is_found_without_torch() -> None:
    model = find_model("roofs")
    assert model.bundled
    assert model.card.is_binary
    assert (model.card.gsd, model.card.tile, model.card.overlap) == (0.15, (512, 512), 32)
    assert model.card.foreground == (1,)
    assert "LINZ" in " ".join(model.card.credits)
    assert "segmentation_models_pytorch" not in Path(find_model.__code__.co_filename).read_text()


def test_files_that_are_no_models(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    (tmp_path / "text.safetensors").write_text("no model at all, but long enough to have a header")
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "old.pth").write_bytes(b"\x80\x04")
    save_file({"w": np.zeros(2, np.float32)}, tmp_path / "plain.safetensors")
    (tmp_path / "folder").mkdir()
    for name, words in [
        ("text.safetensors", "not a safetensors file"),
        ("empty.safetensors", "not a safetensors file"),
        ("old.pth", "have no card"),
        ("plain.safetensors", "without a tilesegment card"),
        ("folder", "config.json"),
    ]:
        with pytest.raises(ModelError, match=words):
            find_model(str(tmp_path / name))


def test_a_folder_of_smp_is_a_model(tmp_path: Path) -> None:
    import segmentation_models_pytorch as smp

    torch.manual_seed(1)
    network = smp.Unet(
        "mobilenet_v2", encoder_weights=None, classes=3, decoder_channels=(64, 32, 16, 16, 8)
    )
    network.save_pretrained(str(tmp_path / "own"))
    model = find_model(str(tmp_path / "own"))
    assert (model.card.architecture, model.card.encoder) == ("Unet", "mobilenet_v2")
    loaded = load_network(model)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(image), network.eval()(image))


def test_weights_of_another_network_are_refused(tmp_path: Path, saved: str) -> None:
    weights = dict(read_weights(find_model(saved)))
    weights.pop("segmentation_head.0.weight")
    save_model(tmp_path / "short.safetensors", weights, small_card())
    with pytest.raises(ModelError, match="1 weights are missing"):
        load_network(find_model(str(tmp_path / "short.safetensors")))
    save_model(tmp_path / "other.safetensors", read_weights(find_model(saved)), small_card(5))
    with pytest.raises(ModelError, match="2 weights are missing or of another size"):
        load_network(find_model(str(tmp_path / "other.safetensors")))


def test_a_model_that_changed_under_a_run_is_noticed(tmp_path: Path, saved: str) -> None:
    model = find_model(saved)
    save_model(saved, {"w": np.zeros(1, np.float32)}, small_card())
    with pytest.raises(ModelError, match="is not what it was when the run began"):
        read_weights(model)


def test_unknown_names_and_unreachable_weights_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import segmentation_models_pytorch as smp

    with pytest.raises(ModelError, match="no such architecture or encoder"):
        build_network(Card("x", "Unet", "resnet999", (ModelClass("a", (0, 0, 0)),)))

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network\nsecond line")

    monkeypatch.setattr(smp, "create_model", offline)
    with pytest.raises(ModelError, match="imagenet weights of resnet18 cannot be loaded") as caught:
        build_network(small_card(), "imagenet")
    assert "\n" not in str(caught.value)


class TestNormalise:
    card = Card("x", "Unet", "resnet18", (ModelClass("a", (0, 0, 0)),))

    def test_formula(self) -> None:
        values = np.array([[[0, 51]], [[102, 153]], [[204, 255]]], np.uint8)
        found = normalise(values, None, ValueRange.of_all((0.0, 255.0), 3), self.card)
        expected = (values / 255 - np.reshape(self.card.mean, (3, 1, 1))) / np.reshape(
            self.card.std, (3, 1, 1)
        )
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_values_beyond_the_range_are_clipped_and_invalid_ones_filled(self) -> None:
        values = np.array([[[-5, 500]]] * 3, np.int16)
        found = normalise(values, np.array([[True, False]]), ValueRange.of_all((0.0, 100.0), 3), self.card)
        np.testing.assert_allclose(found[:, 0, 0], -np.divide(self.card.mean, self.card.std), rtol=1e-6)
        assert (found[:, 0, 1] == 0).all()


def test_weights_that_the_architecture_does_not_know(tmp_path: Path) -> None:
    card = small_card(2)
    weights = {name: tensor.numpy() for name, tensor in build_network(card).state_dict().items()}
    path = tmp_path / "m.safetensors"
    save_model(path, {**weights, "extra.weight": np.zeros(3, np.float32)}, card)
    with pytest.raises(ModelError, match=r"0 weights are missing .* and 1 unknown .*'extra\.weight'"):
        load_network(find_model(str(path)))


def test_a_file_that_was_written_again_is_another_model(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    found = []
    for value in (0.0, 1.0):
        save_model(path, {"w": np.full(3, value, np.float32)}, small_card(2))
        os.utime(path, (1_000 + value, 1_000 + value))
        found.append(find_model(str(path)))
    assert found[0].sha256 != found[1].sha256

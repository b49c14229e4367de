"""Models from elsewhere, with stand-ins for what a network would bring."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import tilesegment
from tests.test_model import small_card
from tilesegment.errors import ModelError, SettingsError
from tilesegment.model import hub
from tilesegment.model.build import build_network, load_network
from tilesegment.model.store import find_model, save_model

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders that stand for repositories; what was asked for is in `asked.json`."""
    folder = tmp_path / "shelf"
    folder.mkdir()

    def snapshot(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        (folder / "asked.json").write_text(json.dumps([name, revision, allow_patterns]))
        if not (folder / name).is_dir():
            raise OSError("404 Client Error: no such repository\nfor url: ...")
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    hub._from_hf.cache_clear()
    return folder


def ours(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    network = build_network(small_card(2))
    save_model(path, {k: v.numpy() for k, v in network.state_dict().items()}, small_card(2))


class TestHuggingFace:
    def test_one_of_ours(self, shelf: Path) -> None:
        ours(shelf / "me" / "roofs" / "model.safetensors")
        found = find_model("hf://me/roofs")
        assert found.card == small_card(2)
        assert find_model(found.source).sha256 == found.sha256
        assert json.loads((shelf / "asked.json").read_text()) == ["me/roofs", None, list(hub._FILES)]
        find_model("hf://me/roofs@v2")
        assert json.loads((shelf / "asked.json").read_text())[1] == "v2"

    def test_the_folder_of_a_run(self, shelf: Path) -> None:
        ours(shelf / "me" / "run" / "best.safetensors")
        shutil.copy(shelf / "me" / "run" / "best.safetensors", shelf / "me" / "run" / "last.safetensors")
        assert find_model("hf://me/run").path.endswith("best.safetensors")

    def test_one_of_smp(self, shelf: Path, make_raster, rng, tmp_path: Path) -> None:
        import segmentation_models_pytorch as smp

        network = smp.Unet("resnet18", encoder_weights=None, classes=2)
        network.save_pretrained(shelf / "me" / "unet")
        found = find_model("hf://me/unet")
        assert (found.card.architecture, found.card.encoder) == ("Unet", "resnet18")
        assert load_network(found) is not None

    def test_what_cannot_be_had(self, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ModelError) as caught:
            find_model("hf://me/none")
        assert str(caught.value) == (
            "--model hf://me/none: cannot be had from Hugging Face (404 Client Error: no such repository)"
        )
        (shelf / "me" / "empty").mkdir(parents=True)
        with pytest.raises(ModelError, match=r"there is no \.safetensors file in it"):
            find_model("hf://me/empty")
        monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
        with pytest.raises(SettingsError, match="this needs huggingface_hub, which is not installed"):
            find_model("hf://me/none")


def test_without_a_network_there_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        find_model("hf://nobody/nothing-of-this-name")
    assert "cannot be had from Hugging Face" in str(caught.value)
    assert "\n" not in str(caught.value)


class TestTorchvision:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TILESEGMENT_CACHE", str(tmp_path / "cache"))

    def test_its_network_with_a_card(self, monkeypatch: pytest.MonkeyPatch, rng) -> None:
        from torchvision import models

        torch.manual_seed(0)
        network = models.get_model("lraspp_mobilenet_v3_large", weights=None, weights_backbone=None)
        names = ["__background__", *(f"class {k}" for k in range(1, 21))]
        asked: list[bool] = []

        def state(progress: bool, check_hash: bool) -> Any:
            asked.append(check_hash)
            return network.state_dict()

        entry = SimpleNamespace(meta={"categories": names}, get_state_dict=state)
        monkeypatch.setattr(models, "get_model_weights", lambda kind: {hub._COCO: entry})
        for _ in range(2):
            found = find_model("torchvision://lraspp_mobilenet_v3_large")
        assert asked == [True]
        card = found.card
        assert [each.name for each in card.classes][:2] == ["background", "class 1"]
        assert (len(card.classes), card.image_size, card.foreground) == (
            21,
            (520, 520),
            tuple(range(1, 21)),
        )
        tile = torch.from_numpy(rng.normal(size=(1, 3, 64, 64)).astype(np.float32))
        with torch.inference_mode():
            expected = network.eval()(tile)["out"]
            torch.testing.assert_close(load_network(found)(tile), expected)

    def test_what_cannot_be_had(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("resnet18", "deeplabv3", "FCN", "FCN_ResNet50_Weights"):
            with pytest.raises(ModelError, match=f"torchvision has no segmentation model '{name}'"):
                find_model(f"torchvision://{name}")

        def refuse(*_: Any, **__: Any) -> None:
            raise socket.gaierror("Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        monkeypatch.setenv("TORCH_HOME", "/nowhere/at/all")
        with pytest.raises(ModelError) as caught:
            tilesegment.predict("x.tif", "x.gpkg", model="torchvision://deeplabv3_resnet101")
        assert str(caught.value).startswith(
            "model torchvision://deeplabv3_resnet101: its weights cannot be had ("
        )
        assert "\n" not in str(caught.value)
